"""Measurements of speed, each beside a reference in the same run: ``python -m r1jax.bench``."""
