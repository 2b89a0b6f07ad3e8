"""Cross entropy of next tokens (pretraining, fine-tuning, distillation; R1 Sec. 2.3), and the losses of reward models.

Those are Bradley-Terry on pairs (helpfulness) and binary cross entropy on single responses (safety). R1 Sec. 3.1 says
pairwise and point-wise and prints no formula; these are the recommended ones (spec B.7, G.14). Each loss is a float32
sum over one micro-batch, to be added to those of the others; where a weight is 0 (prompt, padding) no value matters.
"""

import jax
import jax.numpy as jnp

from r1jax.objectives.sums import Metrics, check_shapes


def cross_entropy_loss(logp_BT: jax.Array, *, weight_BT: jax.Array) -> tuple[jax.Array, Metrics]:
    """- sum w log p, and its metrics: "nll", the sum of -log p over counted tokens, and "num_tokens" (`add_metrics`).

    logp_BT: log-probs of the targets, nats. weight_BT: from `token_weights`. Raises ValueError unless both are [B, T].
    """
    check_shapes(2, logp_BT=logp_BT, weight_BT=weight_BT)
    counted_BT = weight_BT != 0
    nll_BT = -jnp.where(counted_BT, jnp.asarray(logp_BT, jnp.float32), 0.0)
    metrics = {"nll": jnp.sum(nll_BT), "num_tokens": jnp.sum(counted_BT, dtype=jnp.float32), "max": {}}
    return jnp.sum(weight_BT * nll_BT), jax.lax.stop_gradient(metrics)


def pair_loss(chosen_B: jax.Array, rejected_B: jax.Array, *, weight_B: jax.Array) -> jax.Array:
    """- sum w log sigmoid(r_chosen - r_rejected).

    chosen_B, rejected_B: rewards (logits, no unit) of the two responses to one prompt. weight_B: 1 / pairs of the whole
    batch. Raises ValueError unless all are [B].
    """
    check_shapes(1, chosen_B=chosen_B, rejected_B=rejected_B, weight_B=weight_B)
    return _weighted(jnp.asarray(chosen_B, jnp.float32) - jnp.asarray(rejected_B, jnp.float32), weight_B)


def point_loss(reward_B: jax.Array, label_B: jax.Array, *, weight_B: jax.Array) -> jax.Array:
    """- sum w (y log sigmoid(r) + (1 - y) log sigmoid(-r)).

    reward_B: rewards; sigmoid(r) is the probability that the response is of class 1 (safe). label_B: 1 for safe, 0 for
    unsafe. weight_B: 1 / responses of the whole batch. Raises ValueError unless all are [B].
    """
    check_shapes(1, reward_B=reward_B, label_B=label_B, weight_B=weight_B)
    label_B = jnp.asarray(label_B, jnp.float32)
    reward_B = jnp.asarray(reward_B, jnp.float32)
    return _weighted(reward_B, weight_B * label_B) + _weighted(-reward_B, weight_B * (1.0 - label_B))


def _weighted(logits_B: jax.Array, weight_B: jax.Array) -> jax.Array:
    """- sum w log sigmoid(logit), what has no weight left out of value and gradient."""
    counted_B = weight_B != 0
    return -jnp.sum(weight_B * jax.nn.log_sigmoid(jnp.where(counted_B, logits_B, 0.0)))
