"""Cross entropy of next tokens: pretraining, supervised fine-tuning (R1 Sec. 2.3), distillation."""

import jax
import jax.numpy as jnp

from r1jax.objectives.shapes import check_shapes
from r1jax.objectives.sums import Metrics


def cross_entropy_loss(logp_BT: jax.Array, *, weight_BT: jax.Array) -> tuple[jax.Array, Metrics]:
    """- sum w log p over one micro-batch, to be added to those of the others, and its metrics.

    Args:
      logp_BT: log-probs of the target tokens, nats.
      weight_BT: from `token_weights` (the usual loss is its aggregation "token"); 0 where a target does not count
        (prompt, padding), and there no value of `logp_BT` matters.

    Returns:
      loss: float32 scalar.
      metrics: "nll", the sum of -log p over counted tokens, and "num_tokens", to be joined by `add_metrics`.

    Raises ValueError unless both are [B, T].
    """
    check_shapes(2, logp_BT=logp_BT, weight_BT=weight_BT)
    counted_BT = weight_BT != 0
    nll_BT = -jnp.where(counted_BT, jnp.asarray(logp_BT, jnp.float32), 0.0)
    metrics = {"nll": jnp.sum(nll_BT), "num_tokens": jnp.sum(counted_BT, dtype=jnp.float32), "max": {}}
    return jnp.sum(weight_BT * nll_BT), jax.lax.stop_gradient(metrics)
