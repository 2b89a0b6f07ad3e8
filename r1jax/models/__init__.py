"""The model: blocks of the V3 and dense families, the presets, the caches."""
