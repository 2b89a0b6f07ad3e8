"""Drafts: guesses of the next tokens, which a decode step checks all at once."""

import jax
import jax.numpy as jnp

_NGRAM = 3
"""Tokens that must be the same for what came after them to be a draft; then 2, then 1."""


def draft_by_ngram(text_BS: jax.Array, lengths_B: jax.Array, *, num_drafts: int) -> jax.Array:
    """[B, K]: what followed the last tokens of each text where they came before (prompt lookup decoding).

    text_BS: tokens, of which the first ``lengths_B`` count. The longest match of up to ``_NGRAM`` tokens decides, of
    equally long ones the latest. −1 where nothing came before, or the text ends.
    """
    num_slots, size = text_BS.shape
    position_S = jnp.arange(size)
    matched_BS = jnp.zeros((num_slots, size), jnp.int32)  # tokens that agree, ending at position s
    agrees_BS = position_S < lengths_B[:, None] - 1
    for back in range(_NGRAM):
        last_B1 = jnp.maximum(lengths_B - 1 - back, 0)[:, None]
        token_B1 = jnp.take_along_axis(text_BS, last_B1, axis=1)
        there_BS = jnp.pad(text_BS, ((0, 0), (back, 0)), constant_values=-1)[:, :size]
        agrees_BS &= (there_BS == token_B1) & (lengths_B[:, None] > back)
        matched_BS += agrees_BS
    best_B1 = jnp.argmax(matched_BS * size + position_S * (matched_BS > 0), axis=1)[:, None]
    next_BK = best_B1 + 1 + jnp.arange(num_drafts)
    has_any_B1 = matched_BS.max(axis=1, keepdims=True) > 0
    drafts_BK = jnp.take_along_axis(text_BS, jnp.minimum(next_BK, size - 1), axis=1)
    return jnp.where(has_any_B1 & (next_BK < lengths_B[:, None]), drafts_BK, -1)
