"""Group-relative advantages (R1 Eq. 3; DSM Sec. 4.1.2), and GDPO's for several rewards (arXiv 2601.05242).

A reward that is NaN is none: its output gets advantage 0 and takes no part in the mean and the deviation of its group.
Rewards are centred in float64, so that a group keeps its signal where all of its rewards are large.
A group with fewer than two rewards has nothing to compare and gets 0.

Deviations: 1. The papers leave the kind of standard deviation open; here it is the population's (ddof 0) plus `eps`.
2. A group whose rewards are all equal gets exactly 0, where the papers' formula is 0 / 0.
3. GDPO subtracts the batch's mean before it divides by the batch's deviation; that mean is 0, since every group's
centred rewards add up to 0, and is left out, so that deviation 2 holds there too.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.objectives.sums import check_shapes


def group_advantages(rewards_PG: jax.Array | np.ndarray, *, normalization: str = "std", eps: float = 1e-6) -> jax.Array:
    """How much better each output is than its group: rewards [P, G] -> advantages [P, G] float32.

    Args:
      rewards_PG: one reward an output, NaN for none, else at most 1e30 in size; a row is the group of one question.
      normalization: "std": (r - mean) / (std + eps), R1 Eq. 3; "mean": r - mean, Dr. GRPO Sec. 3.2 (no question is
        favoured for being easy or hard); "leave_one_out": r - mean of the *other* rewards = n/(n-1) (r - mean), RLOO.
      eps: reward units, keeps tiny deviations finite.

    Raises ValueError for a group of one (nothing to compare with) or an unknown normalization.
    """
    check_shapes(2, rewards_PG=rewards_PG)
    if rewards_PG.shape[1] < 2:
        raise ValueError(f"a group needs at least 2 outputs to compare, got rewards of shape {rewards_PG.shape}")
    if normalization not in ("std", "mean", "leave_one_out"):
        raise ValueError(f"normalization must be one of std, mean, leave_one_out, got {normalization!r}")
    rewards_PG = np.asarray(rewards_PG, np.float64)
    valid_PG = ~np.isnan(rewards_PG)
    count_P1 = np.maximum(valid_PG.sum(axis=1, keepdims=True), 1)
    teaches_P1 = ~is_zero_variance(rewards_PG)[:, None]
    rewards_PG = np.where(valid_PG, rewards_PG, 0.0)
    centred_PG = rewards_PG - rewards_PG.sum(axis=1, keepdims=True) / count_P1
    centred_PG = np.where(valid_PG & teaches_P1, centred_PG, 0.0)
    if normalization == "leave_one_out":
        centred_PG *= count_P1 / np.maximum(count_P1 - 1, 1)
    if normalization != "std":
        return jnp.asarray(centred_PG, jnp.float32)
    # In float32, as the deviations of a group are of one size once they are scaled by a power of two, which is exact.
    _, exponent_P1 = np.frexp(np.abs(centred_PG).max(axis=1, keepdims=True))
    scaled_PG = jnp.asarray(np.ldexp(centred_PG, -exponent_P1), jnp.float32)
    variance_P1 = jnp.sum(scaled_PG**2, axis=1, keepdims=True) / count_P1
    return scaled_PG / (jnp.sqrt(variance_P1) + np.ldexp(np.float32(eps), -exponent_P1))


def decoupled_advantages(
    rewards: Sequence[jax.Array | np.ndarray],
    weights: Sequence[float],
    *,
    normalization: str = "std",
    eps: float = 1e-6,
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
    num_applying = (~np.isnan(np.stack(rewards)).all(axis=0)).sum()
    total_PG = np.asarray(total_PG, np.float64)
    root = np.sqrt(np.sum(total_PG**2) / np.maximum(num_applying, 1))
    return jnp.asarray(total_PG / (root + eps), jnp.float32)


def is_zero_variance(rewards_PG: jax.Array | np.ndarray) -> np.ndarray:
    """True for each group whose rewards are all equal, or fewer than two: it teaches nothing. [P, G] -> [P] bool.

    Equal up to float64's rounding: a weighted sum of rewards may differ in its last digits where its terms came in
    another order.
    """
    check_shapes(2, rewards_PG=rewards_PG)
    rewards_PG = np.asarray(rewards_PG, np.float64)
    valid_PG = ~np.isnan(rewards_PG)
    highest_P = np.where(valid_PG, rewards_PG, -np.inf).max(axis=1)
    lowest_P = np.where(valid_PG, rewards_PG, np.inf).min(axis=1)
    rounding_P = 8 * np.finfo(np.float64).eps * np.where(valid_PG, np.abs(rewards_PG), 0.0).max(axis=1)
    return (valid_PG.sum(axis=1) < 2) | (highest_P - lowest_P <= rounding_P)
