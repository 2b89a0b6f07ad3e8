"""Drawing a token from logits with one uniform number a row."""

import jax
import jax.numpy as jnp

_BLOCK = 256
"""Vocabulary entries a block of the two-level inverse CDF."""


def sample_tokens(logits_BV: jax.Array, uniform_B: jax.Array, *, top_p=None) -> tuple[jax.Array, jax.Array]:
    """(token [B] int32, its log-probability [B] float32) of softmax(logits), temperature already divided out.

    The inverse CDF in two levels, sums of blocks and then within one block, costs two passes over [B, V] and one random
    number a row; ``jax.random.categorical`` draws V of them. A token of probability zero is never returned. ``top_p`` (a
    scalar array, or None for the whole distribution, as RL needs) keeps the smallest set of tokens whose mass reaches it;
    the returned log-probability stays that of the *full* distribution.
    """
    logits_BV = logits_BV.astype(jnp.float32)
    logp_BV = logits_BV - jax.nn.logsumexp(logits_BV, axis=-1, keepdims=True)
    probs_BV = jnp.exp(logp_BV)
    if top_p is not None:
        probs_BV = _nucleus(probs_BV, top_p)
    batch, vocab_size = probs_BV.shape
    num_blocks = -(-vocab_size // _BLOCK)
    probs_BkV = jnp.pad(probs_BV, ((0, 0), (0, num_blocks * _BLOCK - vocab_size))).reshape(batch, num_blocks, _BLOCK)

    block_B, rest_B = _inverse_cdf(probs_BkV.sum(-1), uniform_B)
    within_BV = jnp.take_along_axis(probs_BkV, block_B[:, None, None], axis=1)[:, 0]
    offset_B, _ = _inverse_cdf(within_BV, rest_B)
    token_B = block_B * _BLOCK + offset_B
    return token_B.astype(jnp.int32), jnp.take_along_axis(logp_BV, token_B[:, None], axis=-1)[:, 0]


def _inverse_cdf(mass_BM: jax.Array, uniform_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(index, uniform number within it) of the entry where uniform · total falls, never one of zero mass."""
    cumulative_BM = jnp.cumsum(mass_BM, axis=-1)
    target_B = uniform_B * cumulative_BM[:, -1]
    is_past_BM = (cumulative_BM > target_B[:, None]) & (mass_BM > 0)
    last_B = mass_BM.shape[-1] - 1 - jnp.argmax(mass_BM[:, ::-1] > 0, axis=-1)
    index_B = jnp.where(is_past_BM.any(-1), jnp.argmax(is_past_BM, axis=-1), last_B)
    chosen_B = jnp.take_along_axis(mass_BM, index_B[:, None], axis=-1)[:, 0]
    before_B = jnp.take_along_axis(cumulative_BM, index_B[:, None], axis=-1)[:, 0] - chosen_B
    return index_B, jnp.clip((target_B - before_B) / jnp.maximum(chosen_B, 1e-38), 0.0, 1.0 - 1e-7)


def _nucleus(probs_BV: jax.Array, top_p: jax.Array) -> jax.Array:
    sorted_BV = -jnp.sort(-probs_BV, axis=-1)
    is_needed = jnp.cumsum(sorted_BV, axis=-1) - sorted_BV < top_p
    threshold_B = jnp.min(jnp.where(is_needed, sorted_BV, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(probs_BV >= threshold_B, probs_BV, 0.0)


def row_uniforms(key: jax.Array, rows_B: jax.Array, step: jax.Array) -> jax.Array:
    """[B] uniform numbers that depend on (key, row, step) alone, not on which rows share a batch."""
    step_key = jax.random.fold_in(key, step)
    return jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(step_key, row)))(rows_B)
