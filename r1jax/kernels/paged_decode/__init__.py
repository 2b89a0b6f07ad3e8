"""Attention of the last tokens of each sequence over a paged cache: of grouped heads (GQA), and of MLA's latent,
absorbed.

Both are one operation: queries, the pages of a sequence, an online softmax over them. ``shapes`` says what a page
holds.
"""

import jax
from jax.sharding import PartitionSpec as P

from r1jax.kernels.dispatch import choose_implementation, mesh_axes
from r1jax.kernels.paged_decode import pages, pallas_tpu, reference
from r1jax.kernels.paged_decode.pages import Pages, write_pages

IMPLEMENTATIONS = {"reference": reference.decode, "pallas_tpu": pallas_tpu.decode}


def gqa_decode(q_BTNH: jax.Array, pages: Pages, **options) -> jax.Array:
    """softmax(scale · q kᵀ) v for T query tokens a sequence, [B, T, N, H]; N/J consecutive query heads share a key
    head.

    ``pages`` is the pool of one layer; ``options`` are those of ``_decode``. Raises ValueError as it does, and for
    heads that key heads do not divide.
    """
    kv_heads = pages["kv_WJSA"].shape[1]
    if q_BTNH.shape[2] % kv_heads:
        raise ValueError(f"gqa_decode: {q_BTNH.shape[2]} query heads for {kv_heads} key heads")
    return _decode("gqa_decode", (q_BTNH,), pages, heads=("kv_heads", kv_heads), **options)


def mla_decode(q_latent_BTNC: jax.Array, q_rope_BTNR: jax.Array, pages: Pages, **options) -> jax.Array:
    """softmax(scale · (q_latent · latent + q_rope · rope)) latent for T query tokens a sequence, [B, T, N, C] (spec
    A.3.2).

    ``pages`` is the pool of one layer; ``options`` are those of ``_decode``. Raises ValueError as it does.
    """
    heads = "heads", q_latent_BTNC.shape[2]
    return _decode("mla_decode", (q_latent_BTNC, q_rope_BTNR), pages, heads=heads, **options)


def _decode(
    operation: str,
    queries: tuple[jax.Array, ...],
    cached: Pages,
    *,
    heads: tuple[str, int],
    page_table_BI: jax.Array,
    lengths_B: jax.Array,
    scale: float,
    batch_axes: tuple[str, ...] = (),
    implementation: str = "auto",
    interpret=False,
) -> jax.Array:
    """The T queries are the last of ``lengths_B`` tokens, all in the pool already.

    A query sees itself and what is before it; one that sees nothing, because its sequence is shorter than T or empty,
    gives
    0. Scores and softmax are float32, products take the inputs' type. No gradient.

    On a mesh of several devices (``jax.set_mesh``) each runs the operation on its part. ``batch_axes`` are the mesh
    axes that cut the sequences and, alike, the pool: a sequence's pages are in its own part of it. Query heads stay
    with the key head that they share; a latent, which is every head's, is whole. ``heads``: the logical axis that cuts
    them, and how many there are.

    ``implementation`` ("reference", which gathers the pages, or "pallas_tpu") and ``interpret``: see
    ``choose_implementation``. Raises ValueError as it does, and for types, widths or page sizes that the kernel does
    not support.
    """
    function, interpreted = choose_implementation(
        operation, implementation, IMPLEMENTATIONS, default="reference", interpret=interpret
    )

    def part(pages, page_table_BI, *arrays):
        *queries, lengths_B = arrays
        tables = {"page_table_BI": page_table_BI, "lengths_B": lengths_B}
        return function(queries, pages, **tables, scale=scale, **interpreted)

    (head_axes,) = mesh_axes(heads[:1], heads[1:], role="rollout")
    by_head = P(batch_axes, None, head_axes, None)
    specs = {"in_specs": (*[by_head] * len(queries), P(batch_axes)), "out_specs": by_head}
    return pages.run_on_pages(part, cached, page_table_BI, *queries, lengths_B, **specs, batch_axes=batch_axes)


__all__ = ["Pages", "gqa_decode", "mla_decode", "write_pages"]
