"""Absorbed MLA decode for TPUs: one pass over the pages of each sequence with online softmax.

In the absorbed form (V2 Sec. 2.1.2, after Eq. 11; spec A.3.2) all heads share one key, latent and rope, and one value, the
latent: for the T·N rows of queries of a sequence a page is read once and used for everything. V3 makes 2·128·(576 + 512)
FLOPs of a token's 1152 bytes, 242 a byte, about what a TPU v5 needs to be busy; more query tokens a sequence (speculation)
bring it above.

Grid: (sequences, steps). A step takes a few pages. The pool is passed once for each of them, each time with an index map
that looks up its page in the prefetched page table (``paged.page_specs``), so Pallas' own pipeline reads the pages of the
next step, or of the next sequence, while this step's are worked on. Steps past the end of a sequence repeat the page that
is there, which is no read, and compute nothing.

A step computes the scores of its pages, takes the new maximum over all of them, and adds the weighted latents to the running
sum, which a larger maximum rescales (FlashAttention-2, Alg. 1; ``paged.add_pages``).
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from r1jax.kernels import paged
from r1jax.kernels.mla_decode import shapes
from r1jax.kernels.mla_decode.shapes import Shape
from r1jax.kernels.tpu_kernel import LANES, NT, dot


def mla_decode(
    q_latent_BTNC, q_rope_BTNR, pages, *, page_table_BI, lengths_B, scale: float, interpret=False
) -> jax.Array:
    """See ``r1jax.kernels.mla_decode.mla_decode``."""
    latent_WSC, rope_WRS = pages["latent_WSC"], pages["rope_WRS"]
    batch, num_queries, heads, latent_dim = q_latent_BTNC.shape
    num_pages, page_size, _ = latent_WSC.shape
    rope_dim = q_rope_BTNR.shape[-1]
    paged.check(
        "mla_decode", dtypes=[a.dtype for a in (q_latent_BTNC, q_rope_BTNR, latent_WSC, rope_WRS)],
        widths={"latent_dim": latent_dim, "rope_dim": rope_dim}, page_size=page_size, batch=batch,
        table=page_table_BI, lengths=lengths_B,
    )  # fmt: skip
    shape = Shape(
        batch=batch, queries=num_queries, heads=heads, latent_dim=latent_dim, rope_dim=rope_dim, page_size=page_size,
        pages_per_sequence=page_table_BI.shape[1], num_pages=num_pages, dtype=str(latent_WSC.dtype),
    )  # fmt: skip
    count, rows = shapes.pages_per_step(shape), num_queries * heads

    def kernel(_, lengths_ref, q_latent_ref, q_rope_ref, *refs):
        latent_refs, rope_refs = refs[:count], refs[count : 2 * count]
        out_ref, *softmax = refs[2 * count :]
        step, length = pl.program_id(1), lengths_ref[pl.program_id(0)]
        first_key = step * count * page_size

        @pl.when(step == 0)
        def _():
            paged.start_softmax(*softmax)

        @pl.when(first_key < length)
        def _():
            scores, masks = [], []
            for j in range(count):
                of_latent = dot(q_latent_ref[...], latent_refs[j][...], contracted=NT)
                scores.append((of_latent + dot(q_rope_ref[...], rope_refs[j][...])) * scale)
                page = {"first_key": first_key + j * page_size, "num_keys": page_size}
                masks.append(paged.visible(length, **page, num_queries=num_queries, rows=rows))
            paged.add_pages(scores, masks, [ref[...] for ref in latent_refs], *softmax)

        @pl.when(step == pl.num_programs(1) - 1)
        def _():
            out_ref[...] = paged.finish_softmax(softmax[0], softmax[2]).astype(out_ref.dtype)

    def row_spec(width: int):
        return pl.BlockSpec((None, rows, width), lambda b, step, *_: (b, 0, 0))

    table = {"count": count, "page_size": page_size, "pages_per_sequence": shape.pages_per_sequence}
    out = pl.pallas_call(
        kernel,
        name="mla_decode",
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch, pl.cdiv(shape.pages_per_sequence, count)),
            in_specs=[
                row_spec(latent_dim),
                row_spec(rope_dim),
                *paged.page_specs((page_size, latent_dim), **table),
                *paged.page_specs((rope_dim, page_size), **table),
            ],
            out_specs=row_spec(latent_dim),
            scratch_shapes=[pltpu.VMEM((rows, width), jnp.float32) for width in (latent_dim, LANES, LANES)],
        ),
        out_shape=jax.ShapeDtypeStruct((batch, rows, latent_dim), q_latent_BTNC.dtype),
        cost_estimate=shapes.cost(shape),
        compiler_params=paged.compiler_params(),
        interpret=interpret,
    )(
        page_table_BI.reshape(-1),
        lengths_B,
        q_latent_BTNC.reshape(batch, rows, latent_dim),
        q_rope_BTNR.reshape(batch, rows, rope_dim),
        *[latent_WSC] * count,
        *[rope_WRS] * count,
    )
    return out.reshape(q_latent_BTNC.shape)
