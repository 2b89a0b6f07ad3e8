"""Token log-probabilities over blocks of the vocabulary: logits of one block at a time, forward and backward.

A pass over the blocks keeps, for each row, the highest logit m, Σ exp(z − m), Σ exp(z − m)·z and the target's logit;
that is all that log-softmax and entropy need. The backward pass computes each block's logits again and from them its
gradients: dz = dlogp·(1[target] − p) − dentropy·p·(z − Σ p z).

Block i holds the rows i, i + n, i + 2n, ... of the unembedding, so that a vocabulary that is sharded over devices stays
so.
"""

import jax
import jax.numpy as jnp

from r1jax.kernels.dispatch import with_gradient

MAX_LOGITS = 1 << 24
"""Largest number of logits alive at once (64 MiB in float32) ..."""
MIN_BLOCK = 1024
"""... unless that would make blocks of fewer tokens than this."""


def token_logprob(x_XD, w_VD, targets_X, *, temperature) -> tuple[jax.Array, jax.Array]:
    """See ``r1jax.kernels.token_logprob.token_logprob``."""
    vocab_size = w_VD.shape[0]
    most = -(-vocab_size // MIN_BLOCK)
    num_blocks = max(min(-(-x_XD.shape[0] * vocab_size // MAX_LOGITS), most), 1)
    padding = -vocab_size % num_blocks
    w_bnD = jnp.pad(w_VD, ((0, padding), (0, 0))).reshape(-1, num_blocks, w_VD.shape[1])
    inverse = jax.lax.stop_gradient(1.0 / jnp.asarray(temperature, jnp.float32))
    return _logprob(x_XD, jnp.swapaxes(w_bnD, 0, 1), targets_X, inverse, vocab_size)


def _logprob_fwd(x_XD, w_nbD, targets_X, inverse_temperature, vocab_size):
    def add_block(sums, numbered):
        highest_X, total_X, weighted_X, chosen_X = sums
        logits_bX, is_target_bX = _logits(x_XD, numbered, targets_X, inverse_temperature, vocab_size, len(w_nbD))
        new_highest_X = jnp.maximum(highest_X, logits_bX.max(0))
        scale_X, weights_bX = jnp.exp(highest_X - new_highest_X), jnp.exp(logits_bX - new_highest_X)
        total_X = total_X * scale_X + weights_bX.sum(0)
        weighted_X = weighted_X * scale_X + (weights_bX * jnp.where(weights_bX > 0, logits_bX, 0.0)).sum(0)
        chosen_X = chosen_X + jnp.where(is_target_bX, logits_bX, 0.0).sum(0)
        return (new_highest_X, total_X, weighted_X, chosen_X), None

    zeros_X = jnp.zeros(targets_X.shape, jnp.float32)
    sums = (jnp.full_like(zeros_X, -jnp.inf), zeros_X, zeros_X, zeros_X)
    highest_X, total_X, weighted_X, chosen_X = _over_blocks(add_block, sums, w_nbD)[0]
    normaliser_X, mean_X = highest_X + jnp.log(total_X), weighted_X / total_X
    residuals = (x_XD, w_nbD, targets_X, inverse_temperature, normaliser_X, mean_X)
    return (chosen_X - normaliser_X, normaliser_X - mean_X), residuals


def _logprob_bwd(vocab_size, residuals, gradients):
    x_XD, w_nbD, targets_X, inverse_temperature, normaliser_X, mean_X = residuals
    dlogp_X, dentropy_X = gradients

    def add_block(dx_DX, numbered):
        logits_bX, is_target_bX = _logits(x_XD, numbered, targets_X, inverse_temperature, vocab_size, len(w_nbD))
        probs_bX = jnp.exp(logits_bX - normaliser_X)
        surprise_bX = jnp.where(probs_bX > 0, logits_bX - mean_X, 0.0)
        dlogits_bX = dlogp_X * is_target_bX - probs_bX * (dlogp_X + dentropy_X * surprise_bX)
        dlogits_bX = (dlogits_bX * inverse_temperature).astype(x_XD.dtype)
        # Both products are plain ones of rows with columns; else one of them is half as fast on XLA's CPU.
        w_Db = jax.lax.optimization_barrier(numbered[1].astype(x_XD.dtype).T)
        dx_DX = dx_DX + jnp.matmul(w_Db, dlogits_bX, preferred_element_type=jnp.float32)
        dw_bD = jnp.matmul(dlogits_bX, x_XD, preferred_element_type=jnp.float32)
        return dx_DX, dw_bD.astype(w_nbD.dtype)

    dx_DX, dw_nbD = _over_blocks(add_block, jnp.zeros(x_XD.shape[::-1], jnp.float32), w_nbD)
    return jax.lax.optimization_barrier(dx_DX).T.astype(x_XD.dtype), dw_nbD, None, None


_logprob = with_gradient(_logprob_fwd, _logprob_bwd, static=(4,))


def _over_blocks(add_block, sums, w_nbD):
    """``lax.scan`` over the numbered blocks; a single block needs no loop."""
    if len(w_nbD) > 1:
        return jax.lax.scan(add_block, sums, (jnp.arange(len(w_nbD)), w_nbD))
    sums, out = add_block(sums, (jnp.int32(0), w_nbD[0]))
    return sums, None if out is None else out[None]


def _logits(x_XD, numbered, targets_X, inverse_temperature, vocab_size, num_blocks):
    """(logits over the temperature, which of them is the target), [b, X] each; −inf past the vocabulary."""
    block, w_bD = numbered
    tokens_b1 = (jnp.arange(w_bD.shape[0]) * num_blocks + block)[:, None]
    logits_bX = jnp.einsum("bd,xd->bx", w_bD.astype(x_XD.dtype), x_XD, preferred_element_type=jnp.float32)
    logits_bX = logits_bX * inverse_temperature
    if vocab_size % num_blocks:
        logits_bX = jnp.where(tokens_b1 < vocab_size, logits_bX, -jnp.inf)
    return logits_bX, targets_X == tokens_b1
