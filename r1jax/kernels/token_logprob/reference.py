"""Unembedding, log-softmax, gather and entropy with all logits at once: the definition."""

import jax
import jax.numpy as jnp


def token_logprob(x_XD, w_VD, targets_X, *, temperature) -> tuple[jax.Array, jax.Array]:
    """See ``r1jax.kernels.token_logprob.token_logprob``."""
    logits_XV = jnp.einsum("xd,vd->xv", x_XD, w_VD.astype(x_XD.dtype), preferred_element_type=jnp.float32)
    logp_XV = jax.nn.log_softmax(logits_XV / jax.lax.stop_gradient(temperature))
    chosen_X = jnp.take_along_axis(logp_XV, targets_X[:, None], axis=-1)[:, 0]
    probs_XV = jnp.exp(logp_XV)
    return chosen_X, -jnp.sum(jnp.where(probs_XV > 0, probs_XV * logp_XV, 0.0), axis=-1)
