"""Policies: what a stage starts from and leaves, and the models that judge, rewrite and reward."""

from r1jax.policies.sample import Generation, LoadedPolicy, load_policy

__all__ = ["Generation", "LoadedPolicy", "load_policy"]
