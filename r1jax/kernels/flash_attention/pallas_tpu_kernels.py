"""What a grid step of each of the three kernels does; see ``pallas_tpu`` for the algorithm.

``refs`` holds the blocks in VMEM by the names that ``pallas_tpu`` gave them, and the prefetched scalars. Scores are
[queries, keys] in the forward and dq kernels, [keys, queries] in the other.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from r1jax.kernels.flash_attention.reference import MASKED
from r1jax.kernels.hardware import NT, dot


def forward_kernel(refs, call) -> None:
    """Online softmax over the blocks of keys."""
    step, softmax = _Step(refs, call, keys_outside=False), [refs[name] for name in ("sum", "highest", "total")]

    @pl.when(step.is_first)
    def _():
        start_softmax(*softmax)

    @pl.when(step.works)
    def _():
        mask = step.mask()
        for n in range(call.blocks.heads):
            v = refs["v"][n // call.heads_per_key]
            add_to_softmax([_scores(refs, call, n)], [mask], [v], *(ref.at[n] for ref in softmax))

    @pl.when(step.is_last)
    def _():
        for n in range(call.blocks.heads):
            total = refs["total"][n]
            total = jnp.where(total > 0, total, 1.0)
            refs["out"][n] = (refs["sum"][n] / total[:, :1]).astype(refs["out"].dtype)
            refs["row.normaliser"][n] = (refs["highest"][n] + jnp.log(total)).T[:1]


def dq_kernel(refs, call) -> None:
    """dq = Σ dscore · k over the blocks of keys."""
    step = _Step(refs, call, keys_outside=False)
    sums = [name for name in ("dq", "dq_rope") if name in refs]

    pl.when(step.is_first)(lambda: _clear(refs, *sums))

    @pl.when(step.works)
    def _():
        mask = step.mask()
        for n in range(call.blocks.heads):
            j = n // call.heads_per_key
            weights = jnp.where(mask, jnp.exp(_scores(refs, call, n) - _column(refs["row.normaliser"][n])), 0.0)
            dweights = dot(refs["out.d"][n], refs["v"][j], contracted=NT)
            dscores = weights * (dweights - _column(refs["row.delta"][n])) * call.scale
            dscores = dscores.astype(refs["k"].dtype)
            refs["dq_sum"][n] += dot(dscores, refs["k"][j])
            if "dq_rope" in refs:
                refs["dq_rope_sum"][n] += dot(dscores, refs["k_rope_T"][...], contracted=NT)

    @pl.when(step.is_last)
    def _():
        _store(refs, "dq")
        if "dq_rope" in refs:
            parts = [refs["dq_rope_sum"][n] for n in range(call.blocks.heads)]
            refs["dq_rope"][...] = jnp.concatenate(parts, axis=-1).astype(refs["dq_rope"].dtype)


def dkv_kernel(refs, call) -> None:
    """dk = Σ dscoreᵀ · q and dv = Σ weightᵀ · dout over the blocks of queries and the heads that share a key."""
    step = _Step(refs, call, keys_outside=True)

    pl.when(step.is_first)(lambda: _clear(refs, "dk", "dv"))
    if "dk_rope" in refs:
        pl.when(step.is_first_of_all_heads)(lambda: _clear(refs, "dk_rope"))

    @pl.when(step.works)
    def _():
        mask = step.mask()
        for n in range(call.blocks.heads):
            j = n // call.heads_per_key
            scores = dot(refs["k"][j], refs["q"][n], contracted=NT)
            if "dk_rope" in refs:
                scores += dot(refs["k_rope"][...], _rope_of_head(refs, call, n), contracted=NT)
            weights = jnp.where(mask, jnp.exp(scores * call.scale - refs["row.normaliser"][n]), 0.0)
            dout = refs["out.d"][n]
            refs["dv_sum"][j] += dot(weights.astype(dout.dtype), dout)
            dweights = dot(refs["v"][j], dout, contracted=NT)
            dscores = (weights * (dweights - refs["row.delta"][n]) * call.scale).astype(dout.dtype)
            refs["dk_sum"][j] += dot(dscores, refs["q"][n])
            if "dk_rope" in refs:
                refs["dk_rope_sum"][...] += dot(dscores, _rope_of_head(refs, call, n))

    pl.when(step.is_last)(lambda: _store(refs, "dk", "dv"))
    if "dk_rope" in refs:
        pl.when(step.is_last_of_all_heads)(lambda: _store(refs, "dk_rope"))


def _clear(refs, *names: str) -> None:
    for name in names:
        refs[f"{name}_sum"][...] = jnp.zeros_like(refs[f"{name}_sum"])


def _store(refs, *names: str) -> None:
    for name in names:
        refs[name][...] = refs[f"{name}_sum"][...].astype(refs[name].dtype)


def start_softmax(sum_ref, highest_ref, total_ref) -> None:
    """Nothing has been added yet."""
    sum_ref[...] = jnp.zeros_like(sum_ref)
    total_ref[...] = jnp.zeros_like(total_ref)
    highest_ref[...] = jnp.full_like(highest_ref, MASKED)


def add_to_softmax(scores: list, masks: list, values: list, sum_ref, highest_ref, total_ref) -> None:
    """Online softmax: blocks of scores, [rows, S] each, and values, [S, width] each, into the running sums of the rows."""
    scores = [jnp.where(mask, s, MASKED) for s, mask in zip(scores, masks, strict=True)]
    before = highest_ref[:, :1]
    highest = before
    for s in scores:
        highest = jnp.maximum(highest, s.max(-1, keepdims=True))
    shrink = jnp.exp(before - highest)
    total, summed = shrink * total_ref[:, :1], shrink * sum_ref[...]
    for s, mask, value in zip(scores, masks, values, strict=True):
        weights = jnp.where(mask, jnp.exp(s - highest), 0.0)  # a row that sees nothing: its highest is MASKED too
        total += weights.sum(-1, keepdims=True)
        summed += dot(weights.astype(value.dtype), value)
    sum_ref[...] = summed
    highest_ref[...] = jnp.broadcast_to(highest, highest_ref.shape)
    total_ref[...] = jnp.broadcast_to(total, total_ref.shape)


class _Step:
    """Where in the grid this is."""

    def __init__(self, refs, call, *, keys_outside: bool):
        self.refs, self.call, self.keys_outside = refs, call, keys_outside
        batch, *place = (pl.program_id(dim) for dim in range(4))
        if keys_outside:
            self.keys, heads, self.queries = place
            within = heads % call.sharing
            held = refs["table"][(batch * call.num_k + self.keys) * call.num_q + self.queries]
            self.works = held == self.queries
            self.is_first = (within == 0) & (self.queries == 0)
            self.is_last = (within == call.sharing - 1) & (self.queries == call.num_q - 1)
            self.is_first_of_all_heads = (heads == 0) & (self.queries == 0)
            self.is_last_of_all_heads = (heads == call.head_blocks - 1) & (self.queries == call.num_q - 1)
        else:
            _, self.queries, self.keys = place
            held = refs["table"][(batch * call.num_q + self.queries) * call.num_k + self.keys]
            self.works = held == self.keys
            self.is_first = self.keys == 0
            self.is_last = self.keys == call.num_k - 1

    def mask(self):
        """Which scores of the block are of a key that its query sees."""
        blocks, refs = self.call.blocks, self.refs
        of_queries = [refs[name][...] for name in ("q_ids.segments", "q_ids.prefixes") if name in refs]
        kv_segments = refs["kv_ids.segments"][...]
        if self.keys_outside:
            shape, query_dim, kv_segments = (blocks.keys, blocks.queries), 1, _column(kv_segments)
        else:
            shape, query_dim, of_queries = (blocks.queries, blocks.keys), 0, [_column(ids) for ids in of_queries]
        query = jax.lax.broadcasted_iota(jnp.int32, shape, query_dim)
        key = jax.lax.broadcasted_iota(jnp.int32, shape, 1 - query_dim)
        ahead = self.queries * blocks.queries + refs["offset"][0] - self.keys * blocks.keys
        seen = functools.reduce(jnp.logical_or, [ids == kv_segments for ids in of_queries])
        return seen & (kv_segments > 0) & (key - query <= ahead)


def _scores(refs, call, n: int):
    """Scaled scores of query head ``n`` of the block, [queries, keys]."""
    scores = dot(refs["q"][n], refs["k"][n // call.heads_per_key], contracted=NT)
    if "q_rope" in refs:
        scores += dot(_rope_of_head(refs, call, n), refs["k_rope_T"][...])
    return scores * call.scale


def _rope_of_head(refs, call, n: int):
    """The rope part of one head of those that lie side by side."""
    size = call.shape.rope_dim
    return refs["q_rope"][:, n * size : (n + 1) * size]


def _column(row_1X):
    """[1, X] as [X, 1]."""
    return row_1X[0][:, None]
