"""Attention in blocks of queries, in plain XLA: memory linear in the number of tokens, forward and backward.

A block of queries reads all the keys that its last query may see, so one softmax over them is exact and needs no
running maximum. What is later than every query of a block is left out statically: the queries are cut into up to
``MAX_SPANS`` spans, each with its own number of keys (all of them if the queries' offset is traced), and ``lax.scan``
goes over a span's blocks. For the backward pass only the output and the log of each row's normaliser are kept; the
weights are computed again (FlashAttention-2, Sec. 3.1).
"""

import jax
import jax.numpy as jnp

from r1jax.kernels.dispatch import with_gradient
from r1jax.kernels.flash_attention.reference import MASKED, attention_mask

_BLOCK = 128
"""Queries a block."""
MAX_SPANS = 8
"""Pieces of the causal triangle: 8 compute 9/16 of the square."""


def flash_attention(
    q_BTNH, k_BSJH, v_BSJU, *, q_segments_BT, kv_segments_BS, scale: float, q_prefixes_BT=None, q_offset=0
) -> jax.Array:
    """See ``r1jax.kernels.flash_attention.flash_attention``; keys are in one part."""
    batch, num_queries, num_heads, _ = q_BTNH.shape
    num_kv_heads = k_BSJH.shape[2]
    block = min(_BLOCK, num_queries)
    padding = -num_queries % block
    q_BTNH = jnp.pad(q_BTNH, ((0, 0), (0, padding), (0, 0), (0, 0)))
    q_ids = jax.tree.map(lambda ids_BT: jnp.pad(ids_BT, ((0, 0), (0, padding))), (q_segments_BT, q_prefixes_BT))
    q_BTJGH = q_BTNH.reshape(batch, num_queries + padding, num_kv_heads, num_heads // num_kv_heads, -1)
    out_BJGTU = _attend(
        q_BTJGH.transpose(0, 2, 3, 1, 4),
        jnp.swapaxes(k_BSJH, 1, 2),
        jnp.swapaxes(v_BSJU, 1, 2),
        q_ids,
        kv_segments_BS,
        jnp.asarray(q_offset, jnp.int32),
        scale,
        q_offset if isinstance(q_offset, int) else None,
    )
    out_BTJGU = jnp.moveaxis(out_BJGTU, 3, 1)
    out_BTNU = out_BTJGU.reshape(batch, num_queries + padding, num_heads, -1)
    return out_BTNU[:, :num_queries]


def _attend_fwd(q_BJGTH, k_BJSH, v_BJSU, q_ids, kv_segments_BS, offset, scale, known_offset):
    outs, normalisers = [], []
    for span, num_keys in _spans(q_BJGTH.shape[3], k_BJSH.shape[2], known_offset):
        k, v, kv_segments = k_BJSH[:, :, :num_keys], v_BJSU[:, :, :num_keys], kv_segments_BS[:, :num_keys]

        def attend(_, block, k=k, v=v, kv_segments=kv_segments):
            start, q, q_ids = block
            mask_BtS = _mask(q_ids, kv_segments, start + offset)
            scores = _matmul("bjxh,bjsh->bjxs", _merged(q), k).reshape(*q.shape[:4], -1) * scale
            scores = jnp.where(mask_BtS[:, None, None], scores, MASKED)
            highest = scores.max(-1, keepdims=True)
            weights = jnp.exp(scores - highest)
            total = weights.sum(-1, keepdims=True)
            out = _matmul("bjxs,bjsu->bjxu", _merged(weights.astype(v.dtype)), v).reshape(*q.shape[:4], -1) / total
            out = jnp.where(highest > MASKED / 2, out, 0.0).astype(q.dtype)
            return None, (out, jnp.log(total) + highest)

        blocks = _cut(span, q_BJGTH), _cut_ids(span, q_ids)
        _, (out, normaliser) = jax.lax.scan(attend, None, (jnp.array(span, jnp.int32), *blocks))
        outs.append(_joined(out))
        normalisers.append(_joined(normaliser))
    out_BJGTU, normaliser_BJGT1 = jnp.concatenate(outs, axis=3), jnp.concatenate(normalisers, axis=3)
    residuals = (q_BJGTH, k_BJSH, v_BJSU, q_ids, kv_segments_BS, offset, out_BJGTU, normaliser_BJGT1)
    return out_BJGTU, residuals


def _attend_bwd(scale, known_offset, residuals, dout_BJGTU):
    q_BJGTH, k_BJSH, v_BJSU, q_ids, kv_segments_BS, offset, out_BJGTU, normaliser_BJGT1 = residuals
    # Σ_s weight · dweight of each row, without the weights (FlashAttention-2, Eq. 4).
    delta_BJGT1 = jnp.sum(dout_BJGTU.astype(jnp.float32) * out_BJGTU.astype(jnp.float32), axis=-1, keepdims=True)
    dqs = []
    dk_BJSH, dv_BJSU = jnp.zeros(k_BJSH.shape, jnp.float32), jnp.zeros(v_BJSU.shape, jnp.float32)
    for span, num_keys in _spans(q_BJGTH.shape[3], k_BJSH.shape[2], known_offset):
        k, v, kv_segments = k_BJSH[:, :, :num_keys], v_BJSU[:, :, :num_keys], kv_segments_BS[:, :num_keys]

        k_BJHS = jax.lax.optimization_barrier(jnp.swapaxes(k, 2, 3))

        def attend(sums, block, k=k, v=v, k_BJHS=k_BJHS, kv_segments=kv_segments):
            # Keys are the rows here: every product below is then a plain one. A batched matmul that contracts the rows of
            # its left side is up to ten times slower on XLA's CPU.
            dk, dv = sums
            start, q, q_ids, dout, normaliser, delta = block
            q_BJXH, dout_BJXU, normaliser, delta = (_merged(a) for a in (q, dout, normaliser, delta))
            mask_BSt = jnp.swapaxes(_mask(q_ids, kv_segments, start + offset), 1, 2)
            mask_BSX = jnp.tile(mask_BSt, (1, 1, q.shape[2]))[:, None]
            scores_BJSX = _matmul("bjsh,bjxh->bjsx", k, q_BJXH) * scale
            weights = jnp.where(mask_BSX, jnp.exp(scores_BJSX - jnp.swapaxes(normaliser, 2, 3)), 0.0)
            dweights = _matmul("bjsu,bjxu->bjsx", v, dout_BJXU)
            dscores = (weights * (dweights - jnp.swapaxes(delta, 2, 3)) * scale).astype(q.dtype)
            dv += _matmul("bjsx,bjxu->bjsu", weights.astype(v.dtype), dout_BJXU)
            dk += _matmul("bjsx,bjxh->bjsh", dscores, q_BJXH)
            dq_BJHX = jax.lax.optimization_barrier(_matmul("bjhs,bjsx->bjhx", k_BJHS, dscores))
            return (dk, dv), jnp.swapaxes(dq_BJHX, 2, 3).reshape(q.shape).astype(q.dtype)

        blocks = [_cut(span, a) for a in (dout_BJGTU, normaliser_BJGT1, delta_BJGT1)]
        inputs = (jnp.array(span, jnp.int32), _cut(span, q_BJGTH), _cut_ids(span, q_ids), *blocks)
        zeros = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
        (dk, dv), dq = jax.lax.scan(attend, zeros, inputs)
        dk_BJSH, dv_BJSU = dk_BJSH.at[:, :, :num_keys].add(dk), dv_BJSU.at[:, :, :num_keys].add(dv)
        dqs.append(_joined(dq))
    return jnp.concatenate(dqs, axis=3), dk_BJSH.astype(k_BJSH.dtype), dv_BJSU.astype(v_BJSU.dtype), None, None, None


_attend = with_gradient(_attend_fwd, _attend_bwd, static=(6, 7))


def _spans(num_queries: int, num_keys: int, known_offset: int | None) -> list[tuple[range, int]]:
    """(first queries of the blocks of a span, keys that they may see) in order; all keys where the offset is traced."""
    block = min(_BLOCK, num_queries)
    starts = range(0, num_queries, block)
    size = -(-len(starts) // MAX_SPANS)
    spans = [starts[first : first + size] for first in range(0, len(starts), size)]
    if known_offset is None:
        return [(span, num_keys) for span in spans]
    return [(span, max(1, min(span[-1] + block + known_offset, num_keys))) for span in spans]


def _cut(span: range, array: jax.Array, *, dim: int = 3) -> jax.Array:
    """The span's blocks of queries, stacked in front."""
    part = jax.lax.slice_in_dim(array, span.start, span.stop, axis=dim)
    blocks = part.reshape(*array.shape[:dim], len(span), -1, *array.shape[dim + 1 :])
    return jnp.moveaxis(blocks, dim, 0)


def _cut_ids(span: range, q_ids):
    """The segments and, where there are some, the prefixes of the span's queries."""
    return jax.tree.map(lambda ids_BT: _cut(span, ids_BT, dim=1), q_ids)


def _mask(q_ids, kv_segments_BS, offset) -> jax.Array:
    q_segments_Bt, q_prefixes_Bt = q_ids
    return attention_mask(q_segments_Bt, kv_segments_BS, q_prefixes_BT=q_prefixes_Bt, q_offset=offset)


def _merged(a_BJGtA) -> jax.Array:
    """The G·t queries of a key head as rows."""
    return a_BJGtA.reshape(*a_BJGtA.shape[:2], -1, a_BJGtA.shape[-1])


def _matmul(spec: str, x, y) -> jax.Array:
    return jnp.einsum(spec, x, y, preferred_element_type=jnp.float32)


def _joined(blocks_nBJGtA) -> jax.Array:
    """Stacked blocks one after another again."""
    return jnp.moveaxis(blocks_nBJGtA, 0, 3).reshape(*blocks_nBJGtA.shape[1:4], -1, blocks_nBJGtA.shape[-1])
