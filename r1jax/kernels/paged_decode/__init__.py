"""Attention of the last tokens of each sequence over a paged cache: of grouped heads (GQA), and of MLA's latent, absorbed.

Both are one operation: queries, the pages of a sequence, an online softmax over them. ``gqa`` and ``mla`` say what a page
holds, and how scores and values come of it.
"""

import functools

import jax
from jax.sharding import PartitionSpec as P

from r1jax.kernels import shards
from r1jax.kernels.implementation import choose
from r1jax.kernels.paged_decode import gqa, mla, pages, pallas_tpu
from r1jax.kernels.paged_decode.pages import Pages, write_pages


def gqa_decode(q_BTNH: jax.Array, pages: Pages, **options) -> jax.Array:
    """softmax(scale · q kᵀ) v for T query tokens a sequence, [B, T, N, H]; N/J consecutive query heads share a key head.

    ``pages`` is the pool of one layer, in ``gqa``'s layout; ``options`` are those of ``decode``. Raises ValueError as it does, and
    for heads that key heads do not divide.
    """
    if q_BTNH.shape[2] % pages["kv_WJSA"].shape[1]:
        raise ValueError(f"gqa_decode: {q_BTNH.shape[2]} query heads for {pages['kv_WJSA'].shape[1]} key heads")
    return decode(gqa, (q_BTNH,), pages, **options)


def mla_decode(q_latent_BTNC: jax.Array, q_rope_BTNR: jax.Array, pages: Pages, **options) -> jax.Array:
    """softmax(scale · (q_latent · latent + q_rope · rope)) latent for T query tokens a sequence, [B, T, N, C] (spec A.3.2).

    ``pages`` is the pool of one layer, in ``mla``'s layout; ``options`` are those of ``decode``. Raises ValueError as it does.
    """
    return decode(mla, (q_latent_BTNC, q_rope_BTNR), pages, **options)


def decode(
    kind,
    queries: tuple[jax.Array, ...],
    cached: Pages,
    *,
    page_table_BI: jax.Array,
    lengths_B: jax.Array,
    scale: float,
    batch_axes: tuple[str, ...] = (),
    implementation: str = "auto",
    interpret=False,
) -> jax.Array:
    """Attention of ``kind``, ``gqa`` or ``mla``: the T queries are the last of ``lengths_B`` tokens, all in the pool already.

    A query sees itself and what is before it; one that sees nothing, because its sequence is shorter than T or empty, gives
    0. Scores and softmax are float32, products take the inputs' type. No gradient.

    On a mesh of several devices (``jax.set_mesh``) each runs the operation on its part. ``batch_axes`` are the mesh axes that cut
    the sequences and, alike, the pool: a sequence's pages are in its own part of it. Query heads stay with the key head that
    they share; a latent, which is every head's, is whole.

    ``implementation`` ("reference", which gathers the pages, or "pallas_tpu") and ``interpret``: see ``choose``. Raises
    ValueError as it does, and for types, widths or page sizes that the kernel does not support.
    """
    implementations = {"reference": kind.reference, "pallas_tpu": functools.partial(pallas_tpu.decode, kind)}
    function, interpreted = choose(kind.NAME, implementation, implementations, default="reference", interpret=interpret)

    def part(pages, page_table_BI, *arrays):
        *queries, lengths_B = arrays
        tables = {"page_table_BI": page_table_BI, "lengths_B": lengths_B}
        return function(*queries, pages, **tables, scale=scale, **interpreted)

    if "kv_WJSA" in cached:
        heads = pages.page_specs(cached, batch_axes)["kv_WJSA"][1]
    else:
        (heads,) = shards.mesh_axes(("heads",), queries[0].shape[2:3], role="rollout")
    by_head = P(batch_axes, None, heads, None)
    specs = {"in_specs": (*[by_head] * len(queries), P(batch_axes)), "out_specs": by_head}
    return pages.run_on_pages(part, cached, page_table_BI, *queries, lengths_B, **specs, batch_axes=batch_axes)


__all__ = ["Pages", "gqa_decode", "mla_decode", "write_pages"]
