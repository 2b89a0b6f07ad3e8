"""Reject stage: answers of a policy, sampled, filtered, rewritten, and written as a set for the supervised stage."""

from r1jax.stages.reject.stage import build, check, main

__all__ = ["build", "check", "main"]
