"""Attention as plain jnp: the definition."""

import jax
import jax.numpy as jnp

MASKED = -1e30
"""Score of a hidden key: finite, so that a row that sees nothing (padding) gives no NaN."""


def attention_mask(
    q_segments_BT: jax.Array, kv_segments_BS: jax.Array, *, q_prefixes_BT: jax.Array | None = None, q_offset=0
) -> jax.Array:
    """[B, T, S]: query t sees key s iff s <= t + q_offset and s is in t's segment, or in the one that is t's prefix.

    0 is padding, and no prefix.
    """
    num_queries, num_keys = q_segments_BT.shape[1], kv_segments_BS.shape[1]
    causal_TS = jnp.arange(num_keys)[None] <= jnp.arange(num_queries)[:, None] + q_offset
    seen_BTS = q_segments_BT[:, :, None] == kv_segments_BS[:, None, :]
    if q_prefixes_BT is not None:
        seen_BTS |= q_prefixes_BT[:, :, None] == kv_segments_BS[:, None, :]
    return causal_TS[None] & seen_BTS & (kv_segments_BS > 0)[:, None, :]


def attention(
    q_BTNH: jax.Array, k_BSJH: jax.Array, v_BSJU: jax.Array, *, mask_BTS: jax.Array, scale: float
) -> jax.Array:
    """softmax(scale · q kᵀ) v with N/J consecutive query heads sharing a key head; returns [B, T, N, U].

    Scores and softmax in float32 (spec A.3.1). The output of a query that sees nothing is 0.
    """
    batch, num_queries, num_heads, _ = q_BTNH.shape
    num_kv_heads = k_BSJH.shape[2]
    group = num_heads // num_kv_heads
    # Heads in front, G queries of a key head as rows: plain batched matmuls, forward and backward.
    q_BJXH = jnp.swapaxes(q_BTNH, 1, 2).reshape(batch, num_kv_heads, group * num_queries, -1)
    k_BJSH, v_BJSU = jnp.swapaxes(k_BSJH, 1, 2), jnp.swapaxes(v_BSJU, 1, 2)
    scores = jnp.einsum("bjxh,bjsh->bjxs", q_BJXH, k_BJSH, preferred_element_type=jnp.float32) * scale
    scores = scores.reshape(batch, num_kv_heads, group, num_queries, -1)
    scores = jnp.where(mask_BTS[:, None, None], scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BSJU.dtype).reshape(batch, num_kv_heads, q_BJXH.shape[2], -1)
    out_BJXU = jnp.einsum("bjxs,bjsu->bjxu", weights, v_BJSU, preferred_element_type=jnp.float32)
    out_BNTU = out_BJXU.reshape(batch, num_heads, num_queries, -1)
    out_BTNU = jnp.swapaxes(out_BNTU, 1, 2).astype(q_BTNH.dtype)
    return jnp.where(mask_BTS.any(-1)[:, :, None, None], out_BTNU, 0)


def flash_attention(
    q_BTNH, k_BSJH, v_BSJU, *, q_segments_BT, kv_segments_BS, scale: float, q_prefixes_BT=None, q_offset=0
) -> jax.Array:
    """See ``r1jax.kernels.flash_attention.flash_attention``; keys are in one part."""
    mask_BTS = attention_mask(q_segments_BT, kv_segments_BS, q_prefixes_BT=q_prefixes_BT, q_offset=q_offset)
    return attention(q_BTNH, k_BSJH, v_BSJU, mask_BTS=mask_BTS, scale=scale)


def with_rope(q_BTNH, k_BSJH, q_rope_BTNR, k_rope_BSR):
    """Queries and keys whose two parts are one array: the key's rope part once a head (V3 Sec. 2.1.1 Eqs. 4, 9)."""
    k_rope_BSJR = jnp.broadcast_to(k_rope_BSR[:, :, None], (*k_BSJH.shape[:3], k_rope_BSR.shape[-1]))
    return jnp.concatenate([q_BTNH, q_rope_BTNR], axis=-1), jnp.concatenate([k_BSJH, k_rope_BSJR], axis=-1)
