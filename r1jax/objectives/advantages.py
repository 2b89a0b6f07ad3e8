"""Group-relative advantages (R1 Eq. 3; DSM Sec. 4.1.2), and GDPO's for several rewards (arXiv 2601.05242).

A reward that is NaN is none: its output gets advantage 0 and takes no part in the mean and the deviation of its group.
A group with fewer than two rewards has nothing to compare and gets 0.

Deviations: 1. The papers leave the kind of standard deviation open; here it is the population's (ddof 0) plus `eps`.
2. A group whose rewards are all equal gets exactly 0, where the papers' formula is 0 / 0.
3. GDPO subtracts the batch's mean before it divides by the batch's deviation; that mean is 0, since every group's
centred rewards add up to 0, and is left out, so that deviation 2 holds there too.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from r1jax.objectives.sums import check_shapes


def group_advantages(rewards_PG: jax.Array, *, normalization: str = "std", eps: float = 1e-6) -> jax.Array:
    """How much better each output is than its group: rewards [P, G] -> advantages [P, G] float32.

    Args:
      rewards_PG: one reward an output, NaN for none; a row is the group of one question.
      normalization: "std": (r - mean) / (std + eps), R1 Eq. 3; "mean": r - mean, Dr. GRPO Sec. 3.2 (no question is
        favoured for being easy or hard); "leave_one_out": r - mean of the *other* rewards = n/(n-1) (r - mean), RLOO.
      eps: reward units, keeps tiny deviations finite.

    Raises ValueError for a group of one (nothing to compare with) or an unknown normalization.
    """
    check_shapes(2, rewards_PG=rewards_PG)
    if rewards_PG.shape[1] < 2:
        raise ValueError(f"a group needs at least 2 outputs to compare, got rewards of shape {rewards_PG.shape}")
    rewards_PG = jnp.asarray(rewards_PG, jnp.float32)
    valid_PG = ~jnp.isnan(rewards_PG)
    count_P1 = jnp.sum(valid_PG, axis=1, keepdims=True)
    teaches_P1 = ~is_zero_variance(rewards_PG)[:, None]
    rewards_PG = jnp.where(valid_PG, rewards_PG, 0.0)
    mean_P1 = jnp.sum(rewards_PG, axis=1, keepdims=True) / jnp.maximum(count_P1, 1)
    centred_PG = jnp.where(valid_PG & teaches_P1, rewards_PG - mean_P1, 0.0)
    if normalization == "std":
        variance_P1 = jnp.sum(centred_PG**2, axis=1, keepdims=True) / jnp.maximum(count_P1, 1)
        return centred_PG / (jnp.sqrt(variance_P1) + eps)
    if normalization == "mean":
        return centred_PG
    if normalization == "leave_one_out":
        return centred_PG * (count_P1 / jnp.maximum(count_P1 - 1, 1))
    raise ValueError(f"normalization must be one of std, mean, leave_one_out, got {normalization!r}")


def decoupled_advantages(
    rewards: Sequence[jax.Array], weights: Sequence[float], *, normalization: str = "std", eps: float = 1e-6
) -> jax.Array:
    """GDPO: each reward becomes an advantage in its group by itself, then they are summed: -> [P, G] float32.

    What rewards of different ranges say is not drowned in one sum ("normalize_then_sum" of TRL). The weighted sum is
    divided by its standard deviation over the batch (GDPO Sec. 3), so the scale does not grow with the rewards.

    rewards: an array [P, G] for each reward, NaN where it does not apply. An output to which none applies gets 0.
    normalization, eps: as for `group_advantages`, of each reward.

    Raises ValueError as `group_advantages` does, and for another number of weights than of rewards.
    """
    total_PG = sum(
        weight * group_advantages(rewards_PG, normalization=normalization, eps=eps)
        for rewards_PG, weight in zip(rewards, weights, strict=True)
    )
    applies_PG = ~jnp.isnan(jnp.stack(rewards)).all(axis=0)
    mean_square = jnp.sum(total_PG**2) / jnp.maximum(jnp.sum(applies_PG), 1)
    return total_PG / (jnp.sqrt(mean_square) + eps)


def is_zero_variance(rewards_PG: jax.Array) -> jax.Array:
    """True for each group whose rewards are all equal, or fewer than two: it teaches nothing. [P, G] -> [P] bool."""
    check_shapes(2, rewards_PG=rewards_PG)
    valid_PG = ~jnp.isnan(rewards_PG)
    highest_P = jnp.max(jnp.where(valid_PG, rewards_PG, -jnp.inf), axis=1)
    lowest_P = jnp.min(jnp.where(valid_PG, rewards_PG, jnp.inf), axis=1)
    return highest_P <= lowest_P
