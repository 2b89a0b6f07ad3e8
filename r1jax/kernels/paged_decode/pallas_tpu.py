"""Decode for TPUs: one pass over the pages of each sequence with online softmax.

Grid: (sequences, steps). A step takes a few pages. A pool is passed once for each of them, each time with an index map
that looks up its page in the prefetched page table (``page_blocks``), so Pallas' own pipeline reads the pages of the
next step, or of the next sequence, while this step's are worked on. Steps past the end of a sequence repeat the page
that is there, which is no read, and compute nothing.

A step computes the scores of its pages, takes the new maximum over all of them, and adds the weighted values to the
running sum, which a larger maximum rescales (FlashAttention-2, Alg. 1; ``add_to_softmax``). For each key head, the
query heads that share it (Ainslie et al. 2023, Sec. 2.2) and the T query tokens are the rows of one product. In the
absorbed form of MLA (V2 Sec. 2.1.2, after Eq. 11; spec A.3.2) all heads share one key, latent and rope, and one value,
the latent: a page is read once and used for all T·N rows. V3 makes 2·128·(576 + 512) FLOPs of a token's 1152 bytes, 242
a byte, about what a TPU v5 needs to be busy; more query tokens a sequence (speculation) bring it above. At GQA's 2·N/J
FLOPs a byte in bf16 reading the pages is all of the time.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from r1jax.kernels import hardware
from r1jax.kernels.flash_attention.pallas_tpu_kernels import add_to_softmax, start_softmax
from r1jax.kernels.hardware import KERNEL_DTYPES, LANES, NT, SMEM_TABLE_BYTES, compiler_params, dot
from r1jax.kernels.paged_decode.shapes import DecodeShape


def decode(queries: list, pages, *, page_table_BI, lengths_B, scale: float, interpret=False) -> jax.Array:
    """See ``r1jax.kernels.paged_decode``."""
    batch, num_queries, heads, first_width = queries[0].shape
    num_pages, dtype = jax.tree.leaves(pages)[0].shape[0], str(queries[0].dtype)
    sizes = {"batch": batch, "queries": num_queries, "heads": heads, "num_pages": num_pages, "dtype": dtype}
    sizes["pages_per_sequence"] = page_table_BI.shape[1]
    if "kv_WJSA" in pages:
        name, (_, kv_heads, page_size, _) = "gqa_decode", pages["kv_WJSA"].shape
        shape = DecodeShape(kv_heads=kv_heads, page_size=page_size, head_dim=first_width, **sizes)
    else:
        name, widths = "mla_decode", {"latent_dim": first_width, "rope_dim": queries[1].shape[-1]}
        shape = DecodeShape(page_size=pages["latent_WSC"].shape[1], **widths, **sizes)
    _check(name, shape, [a.dtype for a in (*queries, *pages.values())], page_table_BI, lengths_B)
    page_size, kv_heads, count = shape.page_size, shape.kv_heads, shape.pages_per_step
    rows, generation = num_queries * heads // kv_heads, hardware.generation()

    def kernel(_, lengths_ref, *refs):
        query_refs, refs = refs[: len(queries)], refs[len(queries) :]
        page_refs, (out_ref, *softmax) = refs[: len(pages) * count], refs[len(pages) * count :]
        step, length = pl.program_id(1), lengths_ref[pl.program_id(0)]
        first_key = step * count * page_size

        @pl.when(step == 0)
        def _():
            start_softmax(*softmax)

        @pl.when(first_key < length)
        def _():
            places = [{"first_key": first_key + n * page_size, "num_keys": page_size} for n in range(count)]
            masks = [_visible(length, **place, num_queries=num_queries, rows=rows) for place in places]
            for head in range(kv_heads):
                of_head = [ref.at[head] for ref in query_refs]
                held = [[_of_head(ref, head) for ref in page_refs[n::count]] for n in range(count)]
                seen = [_scores_and_values(of_head, page) for page in held]
                scores, values = [scores * scale for scores, _ in seen], [values for _, values in seen]
                add_to_softmax(scores, masks, values, *(ref.at[head] for ref in softmax))

        @pl.when(step == pl.num_programs(1) - 1)
        def _():
            for head in range(kv_heads):
                total = softmax[2][head, :, :1]  # 0 of a row that saw nothing
                out_ref[head] = (softmax[0][head] / jnp.where(total > 0, total, 1.0)).astype(out_ref.dtype)

    def in_rows(q_BTNA):
        """Rows of a key head: its query heads for the first token, for the second, ..."""
        q_BTJGA = q_BTNA.reshape(batch, num_queries, kv_heads, heads // kv_heads, -1)
        return jnp.swapaxes(q_BTJGA, 1, 2).reshape(batch, kv_heads, rows, -1)

    def row_spec(width: int):
        return pl.BlockSpec((None, kv_heads, rows, width), lambda b, step, *_: (b, 0, 0, 0))

    width = shape.value_dim
    table = {"count": count, "page_size": page_size, "pages_per_sequence": shape.pages_per_sequence}
    out_BJXA = pl.pallas_call(
        kernel,
        name=name,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch, pl.cdiv(shape.pages_per_sequence, count)),
            in_specs=[
                *map(row_spec, shape.query_dims.values()),
                *(spec for block in shape.page_shapes.values() for spec in page_blocks(block, **table)),
            ],
            out_specs=row_spec(width),
            scratch_shapes=[pltpu.VMEM((kv_heads, rows, size), jnp.float32) for size in (width, LANES, LANES)],
        ),
        out_shape=jax.ShapeDtypeStruct((batch, kv_heads, rows, width), queries[0].dtype),
        cost_estimate=shape.passes(generation)[""],
        compiler_params=compiler_params(generation, "parallel", "arbitrary", vmem=1 / 2),
        interpret=interpret,
    )(
        page_table_BI.reshape(-1),
        lengths_B,
        *map(in_rows, queries),
        *(pages[name] for name in shape.page_shapes for _ in range(count)),
    )
    out_BJTGA = out_BJXA.reshape(batch, kv_heads, num_queries, -1, width)
    return jnp.swapaxes(out_BJTGA, 1, 2).reshape(queries[0].shape)


def _of_head(ref, head: int):
    """The part of a page that a key head has: of two dims, without one of heads, all."""
    return ref.at[head] if len(ref.shape) == 3 else ref


def _scores_and_values(queries: list, page: list):
    """(scores before the scale, [rows, S], values, [S, width]) of the refs of a key head's queries and page."""
    if len(queries) == 1:
        (q_ref,), (kv_ref,) = queries, page
        head_dim = q_ref.shape[-1]
        return dot(q_ref[...], kv_ref[:, :head_dim], contracted=NT), kv_ref[:, head_dim:]
    (q_latent_ref, q_rope_ref), (latent_ref, rope_ref) = queries, page
    latent = latent_ref[...]
    return dot(q_latent_ref[...], latent, contracted=NT) + dot(q_rope_ref[...], rope_ref[...]), latent


def _check(name: str, shape, dtypes: list, table, lengths) -> None:
    """ValueError unless the kernel supports the arrays."""
    if len({str(dtype) for dtype in dtypes}) > 1 or str(dtypes[0]) not in KERNEL_DTYPES:
        raise ValueError(f"{name}: pallas_tpu takes arrays of one type, {' or '.join(KERNEL_DTYPES)}, not {dtypes}")
    for width in (field.name for field in dataclasses.fields(shape) if field.name.endswith("_dim")):
        if getattr(shape, width) % 8:
            raise ValueError(f"{name}: pallas_tpu supports {width} in multiples of 8, not {getattr(shape, width)}")
    if shape.page_size % LANES:
        raise ValueError(f"{name}: pallas_tpu supports pages of a multiple of {LANES} tokens, not {shape.page_size}")
    is_of_batch = table.shape[0] == shape.batch and lengths.shape == (shape.batch,)
    if not is_of_batch or {str(table.dtype), str(lengths.dtype)} != {"int32"}:
        raise ValueError(
            f"{name}: pallas_tpu takes int32 page_table_BI [{shape.batch}, pages] and lengths_B [{shape.batch}], not "
            f"{table.dtype}{list(table.shape)} and {lengths.dtype}{list(lengths.shape)}"
        )
    if 4 * table.size > SMEM_TABLE_BYTES:
        raise ValueError(
            f"{name}: a page table of {table.shape[0]} x {table.shape[1]} entries for at most {SMEM_TABLE_BYTES // 4}; "
            "use longer pages or fewer sequences a call"
        )


def page_blocks(block: tuple, *, count: int, page_size: int, pages_per_sequence: int) -> list[pl.BlockSpec]:
    """Block specs of the ``count`` pages of a step for a pool whose pages are ``block``; the table is prefetched, flat.

    Grid (sequences, steps). A page past the end repeats the one that this operand held before, which is no read.
    """

    def spec(j: int):
        def index_map(b, step, table, lengths):
            last_page = jnp.maximum(pl.cdiv(lengths[b], page_size) - 1, 0)
            last_step = jnp.maximum(last_page - j, 0) // count
            entry = jnp.minimum(jnp.minimum(step, last_step) * count + j, last_page)
            return (table[b * pages_per_sequence + entry], *(0 for _ in block))

        return pl.BlockSpec((None, *block), index_map)

    return [spec(j) for j in range(count)]


def _visible(length, *, first_key, num_keys: int, num_queries: int, rows: int):
    """[rows, num_keys] mask of a page whose first token is ``first_key``; rows / T rows in order for each of the T queries."""
    row = jax.lax.broadcasted_iota(jnp.int32, (rows, num_keys), 0)
    key = first_key + jax.lax.broadcasted_iota(jnp.int32, (rows, num_keys), 1)
    query = sum(((row >= t * (rows // num_queries)).astype(jnp.int32) for t in range(1, num_queries)), 0)
    return key <= length - num_queries + query
