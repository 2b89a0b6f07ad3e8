"""Attention of the last tokens of each sequence over a paged latent cache, in the absorbed form of MLA.

JAX has no kernel to compare with: its paged attention wants keys and values of the same size, a head each. tokamax (0.0.12)
has none either.
"""

import functools

import jax

from r1jax.kernels.implementation import choose
from r1jax.kernels.mla_decode import pallas_tpu, reference, sharded
from r1jax.kernels.mla_decode.reference import init_pages
from r1jax.kernels.mla_decode.sharded import write_pages

IMPLEMENTATIONS = {"reference": reference.mla_decode, "pallas_tpu": pallas_tpu.mla_decode}


def mla_decode(
    q_latent_BTNC: jax.Array,
    q_rope_BTNR: jax.Array,
    pages: dict[str, jax.Array],
    *,
    page_table_BI: jax.Array,
    lengths_B: jax.Array,
    scale: float,
    batch_axes: tuple[str, ...] = (),
    implementation: str = "auto",
    interpret=False,
) -> jax.Array:
    """softmax(scale · (q_latent · latent + q_rope · rope)) latent for T query tokens a sequence, [B, T, N, C] (spec A.3.2).

    ``pages`` is the pool of one layer, ``reference``'s layout; the T queries are the last of ``lengths_B`` tokens, which are
    in the pool already (``write_pages``). A query sees itself and what is before it; one that sees nothing, because its
    sequence is shorter than T or empty, gives 0. Scores and softmax are float32, products take the inputs' type. No gradient.

    On a mesh of several devices (``jax.set_mesh``) each runs the operation on its part. ``batch_axes`` are the mesh axes that cut
    the sequences and, alike, the pool: a sequence's pages are in its own part of it.

    ``implementation``: "reference" (gathers the pages), "pallas_tpu", or "auto": the kernel on a TPU. ``interpret`` runs the
    kernel without a TPU (True, or ``pltpu.InterpretParams``). Raises ValueError for an unknown implementation or one that
    cannot run here, and, for the kernel, types, widths or page sizes that it does not support.
    """
    function, options = choose(
        "mla_decode", implementation, IMPLEMENTATIONS, default="reference", interpret=interpret, splits=True
    )
    function = functools.partial(function, scale=scale, **options)
    places = {"page_table_BI": page_table_BI, "lengths_B": lengths_B, "batch_axes": batch_axes}
    return sharded.mla_decode(function, q_latent_BTNC, q_rope_BTNR, pages, **places)


__all__ = ["init_pages", "mla_decode", "write_pages"]
