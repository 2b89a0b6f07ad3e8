"""GQA decode for TPUs: one pass over the pages of each sequence with online softmax.

The same walk as ``mla_decode``'s: grid (sequences, steps), a few pages a step, each found in the prefetched page table by the
index map of its block, read by Pallas' pipeline while the step before works, nothing read or computed past the end of a
sequence. Here a page holds J key heads, and for each of them the N/J query heads that share it (Ainslie et al. 2023,
Sec. 2.2) and the T query tokens are the rows of one product. At 2·N/J FLOPs a byte in bf16 reading the pages is all of the
time.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from r1jax.kernels import paged
from r1jax.kernels.gqa_decode import shapes
from r1jax.kernels.gqa_decode.shapes import Shape
from r1jax.kernels.tpu_kernel import LANES, NT, dot


def gqa_decode(q_BTNH, pages, *, page_table_BI, lengths_B, scale: float, interpret=False) -> jax.Array:
    """See ``r1jax.kernels.gqa_decode.gqa_decode``."""
    kv_WJSA = pages["kv_WJSA"]
    batch, num_queries, heads, head_dim = q_BTNH.shape
    num_pages, kv_heads, page_size, _ = kv_WJSA.shape
    paged.check(
        "gqa_decode", dtypes=[q_BTNH.dtype, kv_WJSA.dtype], widths={"head_dim": head_dim}, page_size=page_size,
        batch=batch, table=page_table_BI, lengths=lengths_B,
    )  # fmt: skip
    shape = Shape(
        batch=batch, queries=num_queries, heads=heads, kv_heads=kv_heads, head_dim=head_dim, page_size=page_size,
        pages_per_sequence=page_table_BI.shape[1], num_pages=num_pages, dtype=str(kv_WJSA.dtype),
    )  # fmt: skip
    count, rows = shapes.pages_per_step(shape), num_queries * heads // kv_heads

    def kernel(_, lengths_ref, q_ref, *refs):
        page_refs, (out_ref, *softmax) = refs[:count], refs[count:]
        step, length = pl.program_id(1), lengths_ref[pl.program_id(0)]
        first_key = step * count * page_size

        @pl.when(step == 0)
        def _():
            paged.start_softmax(*softmax)

        @pl.when(first_key < length)
        def _():
            places = [{"first_key": first_key + n * page_size, "num_keys": page_size} for n in range(count)]
            masks = [paged.visible(length, **place, num_queries=num_queries, rows=rows) for place in places]
            for j in range(kv_heads):
                keys = [ref[j, :, :head_dim] for ref in page_refs]
                scores = [dot(q_ref[j], k, contracted=NT) * scale for k in keys]
                values = [ref[j, :, head_dim:] for ref in page_refs]
                paged.add_pages(scores, masks, values, *(ref.at[j] for ref in softmax))

        @pl.when(step == pl.num_programs(1) - 1)
        def _():
            for j in range(kv_heads):
                out_ref[j] = paged.finish_softmax(softmax[0].at[j], softmax[2].at[j]).astype(out_ref.dtype)

    # Rows of a key head: its query heads for the first token, for the second, ...
    q_BTJGH = q_BTNH.reshape(batch, num_queries, kv_heads, heads // kv_heads, head_dim)
    q_BJXH = jnp.swapaxes(q_BTJGH, 1, 2).reshape(batch, kv_heads, rows, head_dim)
    row_spec = pl.BlockSpec((None, kv_heads, rows, head_dim), lambda b, step, *_: (b, 0, 0, 0))
    page = (kv_heads, page_size, 2 * head_dim)
    table = {"count": count, "page_size": page_size, "pages_per_sequence": shape.pages_per_sequence}
    out_BJXH = pl.pallas_call(
        kernel,
        name="gqa_decode",
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch, pl.cdiv(shape.pages_per_sequence, count)),
            in_specs=[row_spec, *paged.page_specs(page, **table)],
            out_specs=row_spec,
            scratch_shapes=[pltpu.VMEM((kv_heads, rows, width), jnp.float32) for width in (head_dim, LANES, LANES)],
        ),
        out_shape=jax.ShapeDtypeStruct(q_BJXH.shape, q_BTNH.dtype),
        cost_estimate=shapes.cost(shape),
        compiler_params=paged.compiler_params(),
        interpret=interpret,
    )(page_table_BI.reshape(-1), lengths_B, q_BJXH, *[kv_WJSA] * count)
    out_BJTGH = out_BJXH.reshape(batch, kv_heads, num_queries, -1, head_dim)
    return jnp.swapaxes(out_BJTGH, 1, 2).reshape(q_BTNH.shape)
