"""The directory of a run: who writes it (config, lineage, digests, metrics, progress, stop), and its one reader."""
