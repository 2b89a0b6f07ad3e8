"""FlashAttention-2 for TPUs (Dao 2023, Algorithms 1 and 2), with segments, grouped heads and keys in two parts.

Forward. A grid step holds a block of queries of a few heads and one block of keys; the keys are the innermost grid
dimension, so Pallas reads the next block while this one is worked on. For each row the running maximum m, the running
sum l of exp(score − m) and the unnormalised output are kept in VMEM: a larger m' rescales both by exp(m − m'). After
the last block of keys the output is divided by l, and m + log l is kept for the backward pass.

Backward. Weights are recomputed, p = exp(score − (m + log l)). With delta = Σ dout · out of a row (Eq. 4), dscore = p ·
(dout vᵀ − delta). One kernel sums dq = dscore k over the keys, like the forward pass. The other has the keys outside
and sums dk = dscoreᵀ q and dv = pᵀ dout over queries and over all query heads of a key head; there everything is
computed transposed, keys as rows, so that what belongs to a query (segment, normaliser, delta) is a row as it is in
memory.

Which blocks meet. Most pairs of blocks are empty: above the diagonal, or of keys that are neither of the queries'
segments nor of their prefixes. ``_block_table`` says for each grid step which inner block to hold: its own where the
pair may hold a visible score, else the one that is there already, which costs no read; such a step does nothing. The
table is prefetched to SMEM and read by the index maps.

Keys in two parts (MLA, V3 Sec. 2.1.1 Eqs. 5-10). score = q · k + q_rope · k_rope with one k_rope for all heads. The
product is taken apart, so k_rope is read once for a block of heads and never written once a head, and its gradient is
summed over heads in VMEM. 64 rope numbers would fill half of a tile's 128 lanes: queries carry those of two heads side
by side, keys are transposed, tokens along the lanes.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec as P

from r1jax.kernels import dispatch, hardware
from r1jax.kernels.flash_attention import pallas_tpu_kernels as kernels
from r1jax.kernels.flash_attention import shapes
from r1jax.kernels.flash_attention.shapes import AttentionShape, Blocks
from r1jax.kernels.hardware import KERNEL_DTYPES, LANES, SMEM_TABLE_BYTES, compiler_params

_MAX_HEAD_DIM = 512


def flash_attention(
    q_BTNH, k_BSJH, v_BSJU, *, q_segments_BT, kv_segments_BS, scale: float, q_prefixes_BT=None, q_offset=0,
    q_rope_BTNR=None, k_rope_BSR=None, blocks: Blocks | None = None, interpret=False,
) -> jax.Array:  # fmt: skip
    """See ``r1jax.kernels.flash_attention.flash_attention``; ``blocks`` None chooses them.

    On a mesh over sequences and heads: no device needs anything of another. Heads are split where the axis divides the
    key heads too, so that the query heads of a key head stay together. Queries and keys of one sequence stay on one
    device: there is no ring over the axis "sequence".
    """
    options = {"offset": q_offset if isinstance(q_offset, int) else None, "scale": float(scale)}
    part = functools.partial(_on_device, blocks=blocks, interpret=interpret, **options)
    offset_1 = jnp.asarray(q_offset, jnp.int32).reshape(1)
    segments = q_segments_BT, kv_segments_BS, q_prefixes_BT
    arrays = (q_BTNH, k_BSJH, v_BSJU, segments, q_rope_BTNR, k_rope_BSR, offset_1)
    batch, heads = dispatch.mesh_axes(("batch", "heads"), (q_BTNH.shape[0], k_BSJH.shape[2]))
    by_head, whole = P(batch, None, heads, None), P(batch, None)
    in_specs = (by_head, by_head, by_head, whole, by_head, P(batch, None, None), P())
    return dispatch.run_on_parts(part, arrays, in_specs=in_specs, out_specs=by_head)


def _on_device(
    q_BTNH, k_BSJH, v_BSJU, segments, q_rope_BTNR, k_rope_BSR, offset_1, *, blocks, offset, scale, interpret
):
    types = {a.dtype for a in (q_BTNH, k_BSJH, v_BSJU, q_rope_BTNR, k_rope_BSR) if a is not None}
    if len(types) > 1 or str(q_BTNH.dtype) not in KERNEL_DTYPES:
        raise ValueError(
            f"flash_attention: pallas_tpu takes arrays of one type, {' or '.join(KERNEL_DTYPES)}, not {types}"
        )
    (batch, queries, heads, head_dim), (_, keys, kv_heads, _) = q_BTNH.shape, k_BSJH.shape
    shape = AttentionShape(
        batch=batch, queries=queries, keys=keys, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
        value_dim=v_BSJU.shape[-1], rope_dim=0 if q_rope_BTNR is None else q_rope_BTNR.shape[-1],
        has_prefixes=segments[2] is not None, dtype=str(q_BTNH.dtype),
    )  # fmt: skip
    generation = hardware.generation()
    blocks = blocks or shapes.choose_blocks(shape, generation)
    _check(shape, blocks)
    call = _Call(shape, blocks, scale, offset, generation, interpret)

    rows, columns = -queries % blocks.queries, -keys % blocks.keys
    q_BNTH, k_BJSH, v_BJSU = _heads_first(q_BTNH, rows), _heads_first(k_BSJH, columns), _heads_first(v_BSJU, columns)
    ropes = None
    if q_rope_BTNR is not None:
        packed = q_rope_BTNR.reshape(batch, queries, heads // blocks.heads, -1)
        ropes = _heads_first(packed, rows), jnp.pad(k_rope_BSR, ((0, 0), (0, columns), (0, 0)))
    paddings = rows, columns, rows
    segments = tuple(
        None if ids is None else jnp.pad(ids, ((0, 0), (0, n))) for ids, n in zip(segments, paddings, strict=True)
    )
    out_BNTU = _attend(call, q_BNTH, k_BJSH, v_BJSU, ropes, segments, offset_1)
    return jnp.swapaxes(out_BNTU[:, :, :queries], 1, 2)


def _check(shape: AttentionShape, blocks: Blocks) -> None:
    for name in ("head_dim", "value_dim", "rope_dim"):
        size = getattr(shape, name)
        if size % 8 or size > _MAX_HEAD_DIM:
            raise ValueError(
                f"flash_attention: pallas_tpu supports {name} in multiples of 8 up to {_MAX_HEAD_DIM}, not {size}"
            )
    group = shape.heads // shape.kv_heads
    if blocks.queries % LANES or blocks.keys % LANES or (group % blocks.heads and blocks.heads % group):
        raise ValueError(
            f"flash_attention: blocks are multiples of {LANES} tokens and of heads that divide the {group} of a key head "
            f"or hold several key heads, not {blocks}"
        )
    steps = shape.batch * pl.cdiv(shape.queries, blocks.queries) * pl.cdiv(shape.keys, blocks.keys)
    if 4 * steps > SMEM_TABLE_BYTES:
        raise ValueError(
            f"flash_attention: {steps} pairs of blocks ({shape.batch} sequences, {shape.queries} queries, {shape.keys} "
            f"keys) for a table of at most {SMEM_TABLE_BYTES // 4}; give pallas_tpu fewer sequences a call or longer blocks"
        )


def _heads_first(a_BTNA, padding: int):
    return jnp.swapaxes(jnp.pad(a_BTNA, ((0, 0), (0, padding), (0, 0), (0, 0))), 1, 2)


class _Call:
    """What is static in one call: equal calls are one entry in JAX's cache of traces."""

    def __init__(
        self, shape: AttentionShape, blocks: Blocks, scale: float, offset: int | None, generation: str, interpret
    ):
        self.key = (shape, blocks, scale, offset, generation, interpret)
        self.shape, self.blocks, self.scale, _, self.generation, self.interpret = self.key
        self.costs = shapes.costs(shape, blocks, q_offset=offset)
        self.num_q, self.num_k = pl.cdiv(shape.queries, blocks.queries), pl.cdiv(shape.keys, blocks.keys)
        self.head_blocks = shape.heads // blocks.heads
        self.group = shape.heads // shape.kv_heads
        self.heads_per_key = min(self.group, blocks.heads)
        """Query heads of a block that share a key head."""
        self.kv_heads = max(1, blocks.heads // self.group)
        """Key heads a block."""
        self.sharing = max(1, self.group // blocks.heads)
        """Blocks of query heads that share a block of key heads."""

    def __eq__(self, other):
        return self.key == other.key

    def __hash__(self):
        return hash(self.key)


def _block_table(call: _Call, segments, offset_1, *, keys_outside: bool):
    """[B · outer · inner] inner block to hold at each grid step, flat because SMEM pads the last dims of an array."""
    q_segments, kv_segments, q_prefixes = segments
    k_low, k_high = _segment_range(kv_segments, call.blocks.keys)

    def may_hold(ids):
        low, high = _segment_range(ids, call.blocks.queries)
        return (low[:, :, None] <= k_high[:, None]) & (k_low[:, None] <= high[:, :, None])

    seen_BIS = may_hold(q_segments) if q_prefixes is None else may_hold(q_segments) | may_hold(q_prefixes)
    last_query_I = (jnp.arange(call.num_q) + 1) * call.blocks.queries - 1 + offset_1
    causal_IS = jnp.arange(call.num_k)[None] * call.blocks.keys <= last_query_I[:, None]
    meet_BIS = seen_BIS & causal_IS
    meet = jnp.swapaxes(meet_BIS, 1, 2) if keys_outside else meet_BIS
    inner = jnp.where(meet, jnp.arange(meet.shape[2], dtype=jnp.int32), -1)
    latest = jax.lax.cummax(inner, axis=2)
    return jnp.where(latest >= 0, latest, jnp.argmax(meet, axis=2, keepdims=True).astype(jnp.int32)).reshape(-1)


def _segment_range(segments_BT, block: int):
    """Least and greatest segment of each block; of a block of padding, a range that meets none."""
    blocks = segments_BT.reshape(segments_BT.shape[0], -1, block)
    low = jnp.where(blocks > 0, blocks, jnp.iinfo(jnp.int32).max).min(-1)
    return low, blocks.max(-1)


def _specs(call: _Call, *, keys_outside: bool) -> dict[str, pl.BlockSpec]:
    """Block specs by operand. Grid: (batch, heads, queries, keys), or (batch, keys, heads, queries) with keys outside."""
    shape, blocks = call.shape, call.blocks

    def at(index):
        """An index map that gets the sequence, block of heads, of queries and of keys to hold."""

        def index_map(b, x, y, z, table, _):
            if keys_outside:
                return index(b, y, table[(b * call.num_k + x) * call.num_q + z], x)
            return index(b, x, y, table[(b * call.num_q + y) * call.num_k + z])

        return index_map

    of_queries, of_keys = at(lambda b, n, i, s: (b, n, i, 0)), at(lambda b, n, i, s: (b, n // call.sharing, s, 0))
    queries, keys = (None, blocks.heads, blocks.queries), (None, call.kv_heads, blocks.keys)
    return {
        "q": pl.BlockSpec((*queries, shape.head_dim), of_queries),
        "out": pl.BlockSpec((*queries, shape.value_dim), of_queries),
        "row": pl.BlockSpec((None, blocks.heads, 1, blocks.queries), at(lambda b, n, i, s: (b, n, 0, i))),
        "q_rope": pl.BlockSpec((None, None, blocks.queries, blocks.heads * shape.rope_dim), of_queries),
        "q_ids": pl.BlockSpec((None, 1, blocks.queries), at(lambda b, n, i, s: (b, 0, i))),
        "k": pl.BlockSpec((*keys, shape.head_dim), of_keys),
        "v": pl.BlockSpec((*keys, shape.value_dim), of_keys),
        "k_rope": pl.BlockSpec((None, blocks.keys, shape.rope_dim), at(lambda b, n, i, s: (b, s, 0))),
        "k_rope_T": pl.BlockSpec((None, shape.rope_dim, blocks.keys), at(lambda b, n, i, s: (b, 0, s))),
        "kv_ids": pl.BlockSpec((None, 1, blocks.keys), at(lambda b, n, i, s: (b, 0, s))),
    }


def _run(call: _Call, name: str, kernel, operands: dict, outputs: dict, scratch: dict, segments, offset_1):
    """Call ``kernel(refs, call)`` with its refs by name; an operand's block is that of the part of its name before a dot."""
    keys_outside = name == "dkv"
    specs = _specs(call, keys_outside=keys_outside)
    ids = dict(zip(("q_ids.segments", "kv_ids.segments", "q_ids.prefixes"), segments, strict=True))
    operands = operands | {n: a if a is None else a[:, None] for n, a in ids.items()}
    operands = {n: a for n, a in operands.items() if a is not None}
    outputs = {n: a for n, a in outputs.items() if a is not None}
    names = ["table", "offset", *operands, *outputs, *scratch]

    def body(*refs):
        kernel(dict(zip(names, refs, strict=True)), call)

    batch, heads = call.shape.batch, call.head_blocks
    semantics = ("arbitrary", "arbitrary") if keys_outside else ("parallel", "arbitrary")
    results = pl.pallas_call(
        body,
        name=f"flash_attention_{name}",
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,  # the table of blocks and the offset of the queries
            grid=(batch, call.num_k, heads, call.num_q) if keys_outside else (batch, heads, call.num_q, call.num_k),
            in_specs=[specs[n.partition(".")[0]] for n in operands],
            out_specs=[specs[n.partition(".")[0].removeprefix("d")] for n in outputs],
            scratch_shapes=[pltpu.VMEM(s, jnp.float32) for s in scratch.values()],
        ),
        out_shape=list(outputs.values()),
        cost_estimate=call.costs[name],
        compiler_params=compiler_params(call.generation, "parallel", "parallel", *semantics, vmem=1 / 2),
        interpret=call.interpret,
    )(_block_table(call, segments, offset_1, keys_outside=keys_outside), offset_1, *operands.values())
    return dict(zip(outputs, results, strict=True))


def _attend_fwd(call: _Call, q_BNTH, k_BJSH, v_BJSU, ropes, segments, offset_1):
    shape, blocks = call.shape, call.blocks
    q_rope, k_rope = ropes or (None, None)
    operands = {"q": q_BNTH, "q_rope": q_rope, "k": k_BJSH, "k_rope_T": _transposed(k_rope), "v": v_BJSU}
    outputs = {
        "out": jax.ShapeDtypeStruct((*q_BNTH.shape[:3], shape.value_dim), q_BNTH.dtype),
        "row.normaliser": jax.ShapeDtypeStruct((*q_BNTH.shape[:2], 1, q_BNTH.shape[2]), jnp.float32),
    }
    rows = (blocks.heads, blocks.queries)
    scratch = {"sum": (*rows, shape.value_dim), "highest": (*rows, LANES), "total": (*rows, LANES)}
    results = _run(call, "fwd", kernels.forward_kernel, operands, outputs, scratch, segments, offset_1)
    out_BNTU = results["out"]
    residuals = q_BNTH, k_BJSH, v_BJSU, ropes, segments, offset_1, out_BNTU, results["row.normaliser"]
    return out_BNTU, residuals


def _attend_bwd(call: _Call, residuals, dout_BNTU):
    q_BNTH, k_BJSH, v_BJSU, ropes, segments, offset_1, out_BNTU, normaliser_BN1T = residuals
    shape, blocks = call.shape, call.blocks
    q_rope, k_rope = ropes or (None, None)
    delta_BN1T = jnp.sum(dout_BNTU.astype(jnp.float32) * out_BNTU.astype(jnp.float32), axis=-1)[:, :, None]
    common = {"q": q_BNTH, "q_rope": q_rope, "k": k_BJSH, "v": v_BJSU, "out.d": dout_BNTU}
    common |= {"row.normaliser": normaliser_BN1T, "row.delta": delta_BN1T}

    outputs = {"dq": _like(q_BNTH), "dq_rope": _like(q_rope)}
    scratch = {"dq_sum": (blocks.heads, blocks.queries, shape.head_dim)}
    scratch |= {"dq_rope_sum": (blocks.heads, blocks.queries, shape.rope_dim)} if ropes else {}
    operands = common | {"k_rope_T": _transposed(k_rope)}
    of_q = _run(call, "dq", kernels.dq_kernel, operands, outputs, scratch, segments, offset_1)

    outputs = {"dk": _like(k_BJSH), "dv": _like(v_BJSU), "dk_rope": _like(k_rope)}
    scratch = {f"{n}_sum": (call.kv_heads, blocks.keys, a.shape[-1]) for n, a in (("dk", k_BJSH), ("dv", v_BJSU))}
    scratch |= {"dk_rope_sum": (blocks.keys, shape.rope_dim)} if ropes else {}
    of_k = _run(call, "dkv", kernels.dkv_kernel, common | {"k_rope": k_rope}, outputs, scratch, segments, offset_1)
    dropes = (of_q["dq_rope"], of_k["dk_rope"]) if ropes else None
    return of_q["dq"], of_k["dk"], of_k["dv"], dropes, None, None


_attend = dispatch.with_gradient(_attend_fwd, _attend_bwd, static=(0,))


def _transposed(k_rope_BSR):
    return None if k_rope_BSR is None else jnp.swapaxes(k_rope_BSR, 1, 2)


def _like(array):
    return None if array is None else jax.ShapeDtypeStruct(array.shape, array.dtype)
