"""Unembedding, log-softmax, gather and entropy over chunks of tokens, recomputed in the backward pass."""

import jax
import jax.numpy as jnp

MAX_LOGITS = 1 << 24
"""Largest number of logits alive at once (64 MiB in float32)."""


def token_logprob(x_XD, w_VD, targets_X, *, temperature) -> tuple[jax.Array, jax.Array]:
    """(log π(target), entropy), each [X] float32 in nats, of softmax(x·wᵀ / temperature).

    ``temperature`` is a scalar array or float > 0; the sampler divides by the same one.
    """
    num_rows, dim = x_XD.shape
    vocab_size = w_VD.shape[0]
    chunk = max(min(num_rows, MAX_LOGITS // vocab_size), 1)
    num_chunks = -(-num_rows // chunk)

    @jax.checkpoint
    def one(x_cD, targets_c):
        logits = jnp.einsum("cd,vd->cv", x_cD, w_VD.astype(x_cD.dtype), preferred_element_type=jnp.float32)
        logits = logits / temperature
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, targets_c[:, None], axis=-1)[:, 0]
        probs = jnp.exp(logits - normaliser[:, None])
        entropy = normaliser - jnp.sum(probs * logits, axis=-1)
        return chosen - normaliser, entropy

    if num_chunks == 1:
        return one(x_XD, targets_X)
    padding = num_chunks * chunk - num_rows
    x_nCD = jnp.pad(x_XD, ((0, padding), (0, 0))).reshape(num_chunks, chunk, dim)
    targets_nC = jnp.pad(targets_X, (0, padding)).reshape(num_chunks, chunk)
    logp, entropy = jax.lax.map(lambda args: one(*args), (x_nCD, targets_nC))
    return logp.reshape(-1)[:num_rows], entropy.reshape(-1)[:num_rows]
