"""Reward functions and their weighted sum. No jax: they run in worker processes."""
