"""Losses of the reward models: Bradley-Terry on pairs (helpfulness), binary cross entropy on single responses (safety).

R1 Sec. 3.1 says pairwise and point-wise and prints no formula; these are the recommended ones (spec B.7, G.14).
"""

import jax
import jax.numpy as jnp

from r1jax.objectives.shapes import check_shapes


def pair_loss(chosen_B: jax.Array, rejected_B: jax.Array, *, weight_B: jax.Array) -> jax.Array:
    """- sum w log sigmoid(r_chosen - r_rejected) over one micro-batch, to be added to those of the others.

    Args:
      chosen_B, rejected_B: rewards (logits, no unit) of the two responses to one prompt.
      weight_B: 1 / pairs of the whole batch; 0 for padding, where no value of the rewards matters.

    Returns a float32 scalar. Raises ValueError unless all are [B].
    """
    check_shapes(1, chosen_B=chosen_B, rejected_B=rejected_B, weight_B=weight_B)
    return _weighted(jnp.asarray(chosen_B, jnp.float32) - jnp.asarray(rejected_B, jnp.float32), weight_B)


def point_loss(reward_B: jax.Array, label_B: jax.Array, *, weight_B: jax.Array) -> jax.Array:
    """- sum w (y log sigmoid(r) + (1 - y) log sigmoid(-r)) over one micro-batch, to be added to those of the others.

    Args:
      reward_B: rewards; sigmoid(r) is the probability that the response is of class 1 (safe).
      label_B: 1 for safe, 0 for unsafe.
      weight_B: 1 / responses of the whole batch; 0 for padding, where no value of the rewards matters.

    Returns a float32 scalar. Raises ValueError unless all are [B].
    """
    check_shapes(1, reward_B=reward_B, label_B=label_B, weight_B=weight_B)
    label_B = jnp.asarray(label_B, jnp.float32)
    reward_B = jnp.asarray(reward_B, jnp.float32)
    return _weighted(reward_B, weight_B * label_B) + _weighted(-reward_B, weight_B * (1.0 - label_B))


def _weighted(logits_B: jax.Array, weight_B: jax.Array) -> jax.Array:
    """- sum w log sigmoid(logit), what has no weight left out of value and gradient."""
    counted_B = weight_B != 0
    return -jnp.sum(weight_B * jax.nn.log_sigmoid(jnp.where(counted_B, logits_B, 0.0)))
