"""Attention as plain jnp: the definition, and the implementation on every platform until a kernel is chosen."""

import jax
import jax.numpy as jnp

MASKED = -1e30
"""Score of a hidden key: finite, so that a row that sees nothing (padding) gives no NaN."""


def attention_mask(q_segments_BT: jax.Array, kv_segments_BS: jax.Array, *, q_offset=0) -> jax.Array:
    """[B, T, S]: query t sees key s iff both are in the same segment (0 is padding) and s <= t + q_offset."""
    num_queries, num_keys = q_segments_BT.shape[1], kv_segments_BS.shape[1]
    causal_TS = jnp.arange(num_keys)[None] <= jnp.arange(num_queries)[:, None] + q_offset
    same_BTS = q_segments_BT[:, :, None] == kv_segments_BS[:, None, :]
    return causal_TS[None] & same_BTS & (kv_segments_BS > 0)[:, None, :]


def attention(
    q_BTNH: jax.Array, k_BSJH: jax.Array, v_BSJU: jax.Array, *, mask_BTS: jax.Array, scale: float
) -> jax.Array:
    """softmax(scale · q kᵀ) v with N/J consecutive query heads sharing a key head; returns [B, T, N, U].

    Scores and softmax in float32 (spec A.3.1).
    """
    batch, num_queries, num_heads, _ = q_BTNH.shape
    num_kv_heads = k_BSJH.shape[2]
    q_BTJGH = q_BTNH.reshape(batch, num_queries, num_kv_heads, num_heads // num_kv_heads, -1)
    scores = jnp.einsum("btjgh,bsjh->bjgts", q_BTJGH, k_BSJH, preferred_element_type=jnp.float32) * scale
    scores = jnp.where(mask_BTS[:, None, None], scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BSJU.dtype)
    out = jnp.einsum("bjgts,bsju->btjgu", weights, v_BSJU, preferred_element_type=jnp.float32)
    return out.reshape(batch, num_queries, num_heads, -1).astype(q_BTNH.dtype)
