"""Attention of the last tokens of each sequence over a dense cache, in plain XLA, and the write into that cache.

A cache has S slots a sequence; those that are used differ in number from one to the next. The cost of a step follows
what is used: the sequences are sorted by length, ``ROWS`` of them are worked on at a time, in blocks of ``BLOCK`` slots
up to the longest of them, with an online softmax. On a mesh, which cuts the sequences, all slots are read at once.

A bfloat16 cache is held as its bits, ``storage_dtype``. XLA's CPU has no bfloat16 slices, gathers and scatters: it
casts the whole array that they take to float32, and back where it is written, a thousand times the cost of a step's
write.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from r1jax.kernels import dispatch
from r1jax.kernels.flash_attention.reference import MASKED

ROWS = 16
"""Sequences worked on at a time."""
BLOCK = 64
"""Slots worked on at a time."""


def storage_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The type in which a cache holds numbers of this type: uint16, the bits, for bfloat16; else the type itself."""
    dtype = jnp.dtype(dtype)
    return jnp.dtype(jnp.uint16) if dtype == jnp.bfloat16 else dtype


def as_stored(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Numbers for a cache of this type (``storage_dtype``'s), rounded to bfloat16 where that is uint16."""
    if dtype == jnp.uint16:
        return jax.lax.bitcast_convert_type(x.astype(jnp.bfloat16), jnp.uint16)
    return x.astype(dtype)


def write_tokens(cached: jax.Array, new: jax.Array, start_B: jax.Array) -> jax.Array:
    """``cached`` with T new tokens a sequence, in the slots start_B[b] to start_B[b] + T - 1.

    cached: [B, J, S, H] and new: [B, T, J, H]; or, without heads, [B, S, C] and [B, T, C]. A sequence whose start is
    negative writes nothing, and slots from S on are dropped. In a donated loop the array is updated in place.
    """
    (batch, num_tokens), num_slots = new.shape[:2], cached.shape[-2]
    sequence_BT = jnp.arange(batch)[:, None]
    slot_BT = jnp.where(start_B < 0, num_slots, start_B)[:, None] + jnp.arange(num_tokens)
    index = sequence_BT, slot_BT
    if new.ndim == 4:
        index = sequence_BT[..., None], jnp.arange(new.shape[2]), slot_BT[..., None]
    return cached.at[index].set(as_stored(new, cached.dtype), mode="drop", unique_indices=True)


def decode_attention(
    q_BTNH: jax.Array,
    k_BJSH: jax.Array,
    v_BJSU: jax.Array | None,
    lengths_B: jax.Array,
    *,
    scale: float,
    q_rope_BTNR: jax.Array | None = None,
    k_rope_BSR: jax.Array | None = None,
) -> jax.Array:
    """softmax(scale · q kᵀ) v for T query tokens a sequence, [B, T, N, U]; N/J consecutive query heads share a key head.

    Query t of sequence b sees the slots up to lengths_B[b] + t; where that is negative its output is 0, and a sequence
    whose T queries all see nothing takes no time. Scores and softmax are float32, products take q's type. No gradient.

    ``v_BJSU`` None: the values are the keys. With the rope parts, for which J is 1, the scores are
    scale · (q kᵀ + q_rope k_ropeᵀ): absorbed MLA (spec A.3.2), whose keys are the latent [B, 1, S, C].
    """
    (batch, num_queries, num_heads, _), (num_kv_heads, num_slots) = q_BTNH.shape, k_BJSH.shape[1:3]
    group = num_heads // num_kv_heads
    rows, block = min(ROWS, batch), min(BLOCK, num_slots)
    dtype, num_x = q_BTNH.dtype, num_queries * group
    keys, queries = [k_BJSH], [q_BTNH]
    if q_rope_BTNR is not None and k_rope_BSR is not None:
        keys, queries = [k_BJSH, k_rope_BSR[:, None]], [q_BTNH, q_rope_BTNR]
    values = k_BJSH if v_BJSU is None else v_BJSU

    def by_kv_head(q_BTNA):
        q_BTJGA = q_BTNA.reshape(batch, num_queries, num_kv_heads, group, -1)
        return jnp.swapaxes(q_BTJGA, 1, 2).reshape(batch, num_kv_heads, num_x, -1)

    queries = [by_kv_head(q) for q in queries]
    last_BX = lengths_B[:, None] + jnp.repeat(jnp.arange(num_queries), group)

    def in_order(out_BJXU):
        out_BJTGU = out_BJXU.reshape(batch, num_kv_heads, num_queries, group, -1)
        return jnp.swapaxes(out_BJTGU, 1, 2).reshape(batch, num_queries, num_heads, -1).astype(dtype)

    if dispatch.mesh_to_split() is not None:
        ks = [_numbers(key, dtype) for key in keys]
        vs = ks[0] if v_BJSU is None else _numbers(values, dtype)
        scores = sum(_scores(q, k) for q, k in zip(queries, ks, strict=True)) * scale
        scores = jnp.where((jnp.arange(num_slots) <= last_BX[..., None])[:, None], scores, MASKED)
        weights = jax.nn.softmax(scores).astype(dtype)
        out_BJXU = jnp.einsum("bjxs,bjsu->bjxu", weights, vs, preferred_element_type=jnp.float32)
        return in_order(jnp.where((last_BX >= 0)[:, None, :, None], out_BJXU, 0.0))
    order_B = jnp.argsort(-lengths_B)

    def chunk(index, out_BJXU):
        # The last chunk begins earlier where the rows do not divide: some are computed twice.
        chosen = jax.lax.dynamic_slice(order_B, (jnp.minimum(index * rows, batch - rows),), (rows,))
        qs, last_bX = [q[chosen] for q in queries], last_BX[chosen]

        def attend(index, sums):
            highest, total, out = sums
            first = index * block
            start = jnp.minimum(first, num_slots - block)

            def read(array):
                _, heads, _, width = array.shape
                part = jax.vmap(lambda row: jax.lax.dynamic_slice(array, (row, 0, start, 0), (1, heads, block, width)))
                return _numbers(part(chosen)[:, 0], dtype)

            ks = [read(key) for key in keys]
            scores = sum(_scores(q, k) for q, k in zip(qs, ks, strict=True)) * scale
            slot = start + jnp.arange(block)
            is_seen_bXs = (slot <= last_bX[..., None]) & (slot >= first)
            scores = jnp.where(is_seen_bXs[:, None], scores, MASKED)
            new_highest = jnp.maximum(highest, scores.max(-1, keepdims=True))
            weights, shrunk = jnp.exp(scores - new_highest), jnp.exp(highest - new_highest)
            vs = ks[0] if v_BJSU is None else read(values)
            more = jnp.einsum("bjxs,bjsu->bjxu", weights.astype(dtype), vs, preferred_element_type=jnp.float32)
            return new_highest, total * shrunk + weights.sum(-1, keepdims=True), out * shrunk + more

        zeros_X1 = jnp.zeros((rows, num_kv_heads, num_x, 1))
        sums = zeros_X1 + MASKED, zeros_X1, jnp.zeros((rows, *out_BJXU.shape[1:]))
        num_blocks = jnp.minimum(jnp.max(last_bX) // block + 1, -(-num_slots // block))
        highest, total, out = jax.lax.fori_loop(0, num_blocks, attend, sums)
        return out_BJXU.at[chosen].set(jnp.where(highest <= MASKED / 2, 0.0, out / total))

    out_BJXU = jnp.zeros((batch, num_kv_heads, num_x, values.shape[-1]))
    out_BJXU = jax.lax.fori_loop(0, -(-batch // rows), chunk, out_BJXU)
    return in_order(out_BJXU)


def _numbers(stored: jax.Array, dtype) -> jax.Array:
    return jax.lax.bitcast_convert_type(stored, jnp.bfloat16) if stored.dtype == jnp.uint16 else stored.astype(dtype)


def _scores(q_bJXH: jax.Array, k_bJsH: jax.Array) -> jax.Array:
    return jnp.einsum("bjxh,bjsh->bjxs", q_bJXH, k_bJsH, preferred_element_type=jnp.float32)
