"""RL stage: GRPO with rule rewards and reward models; `stage` reads from top to bottom."""

from r1jax.stages.rl.stage import build, check, main

__all__ = ["build", "check", "main"]
