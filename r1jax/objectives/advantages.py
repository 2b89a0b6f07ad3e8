"""Group-relative advantages (R1 Eq. 3; DSM Sec. 4.1.2).

Deviations: 1. The papers leave the kind of standard deviation open; here it is the population's (ddof 0) plus `eps`.
2. A group whose rewards are all equal gets exactly 0, where the papers' formula is 0 / 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r1jax.objectives.shapes import check_shapes

NORMALIZATIONS = ("std", "mean", "leave_one_out")


def group_advantages(rewards_PG: jax.Array, *, normalization: str = "std", eps: float = 1e-6) -> jax.Array:
    """How much better each output is than its group: rewards [P, G] -> advantages [P, G] float32.

    Args:
      rewards_PG: one reward an output; a row is the group of one question.
      normalization: "std": (r - mean) / (std + eps), R1 Eq. 3; "mean": r - mean, Dr. GRPO Sec. 3.2 (no question is
        favoured for being easy or hard); "leave_one_out": r - mean of the *other* rewards = G/(G-1) (r - mean), RLOO.
      eps: reward units, keeps tiny deviations finite.

    Raises ValueError for a group of one (nothing to compare with) or an unknown normalization.
    """
    check_shapes(2, rewards_PG=rewards_PG)
    group_size = rewards_PG.shape[1]
    if group_size < 2:
        raise ValueError(f"a group needs at least 2 outputs to compare, got rewards of shape {rewards_PG.shape}")
    rewards_PG = jnp.asarray(rewards_PG, jnp.float32)
    centred_PG = rewards_PG - jnp.mean(rewards_PG, axis=1, keepdims=True)
    if normalization == "std":
        advantages_PG = centred_PG / (jnp.std(rewards_PG, axis=1, keepdims=True) + eps)
    elif normalization == "mean":
        advantages_PG = centred_PG
    elif normalization == "leave_one_out":
        advantages_PG = centred_PG * group_size / (group_size - 1)
    else:
        raise ValueError(f"normalization must be one of {NORMALIZATIONS}, got {normalization!r}")
    return jnp.where(is_zero_variance(rewards_PG)[:, None], 0.0, advantages_PG)


def is_zero_variance(rewards_PG: jax.Array) -> jax.Array:
    """True for each group whose rewards are all equal: it teaches nothing. [P, G] -> [P] bool."""
    check_shapes(2, rewards_PG=rewards_PG)
    return jnp.max(rewards_PG, axis=1) == jnp.min(rewards_PG, axis=1)
