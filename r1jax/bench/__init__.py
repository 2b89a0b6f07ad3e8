"""Measurements of speed, each with a reference in the same run: ``r1jax bench``."""
