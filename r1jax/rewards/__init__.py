"""Reward functions and their weighted sum. No jax: they run in worker processes.

An argument that the docstring of a reward does not name is not used.
"""
