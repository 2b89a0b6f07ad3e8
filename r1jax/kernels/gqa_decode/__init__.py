"""Attention of the last tokens of each sequence over a paged key/value cache with grouped heads.

Beside JAX's own TPU kernel, ``paged_attention``: same results (interpreted on a CPU; nothing was timed on a TPU) for its one
query token a sequence. Both read each page of a sequence once. It keeps keys and values in pools of their own, key heads
first, so a page of 64-wide heads takes twice the bytes that it holds (here they lie side by side) and each key head of a
page is a read of its own; several query tokens (speculation) it does not take. Modelled for a full cache: 269 MB both at
"qwen2.5_7b_4k"; 50 MB here and 101 MB there at "smollm2_2k". tokamax (0.0.12) has no decode over pages for TPUs.
"""

import functools

import jax

from r1jax.kernels.gqa_decode import pallas_tpu, reference, sharded
from r1jax.kernels.gqa_decode.reference import init_pages
from r1jax.kernels.gqa_decode.sharded import write_pages
from r1jax.kernels.implementation import choose

IMPLEMENTATIONS = {"reference": reference.gqa_decode, "pallas_tpu": pallas_tpu.gqa_decode}


def gqa_decode(
    q_BTNH: jax.Array,
    pages: dict[str, jax.Array],
    *,
    page_table_BI: jax.Array,
    lengths_B: jax.Array,
    scale: float,
    batch_axes: tuple[str, ...] = (),
    implementation: str = "auto",
    interpret=False,
) -> jax.Array:
    """softmax(scale · q kᵀ) v for T query tokens a sequence, [B, T, N, H]; N/J consecutive query heads share a key head.

    ``pages`` is the pool of one layer, ``reference``'s layout; the T queries are the last of ``lengths_B`` tokens, which are
    in the pool already (``write_pages``). A query sees itself and what is before it; one that sees nothing, because its
    sequence is shorter than T or empty, gives 0. Scores and softmax are float32, products take the inputs' type. No gradient.

    On a mesh of several devices (``jax.set_mesh``) each runs the operation on its part. ``batch_axes`` are the mesh axes that cut
    the sequences and, alike, the pool: a sequence's pages are in its own part of it.

    ``implementation``: "reference" (gathers the pages), "pallas_tpu", or "auto": the kernel on a TPU. ``interpret`` runs the
    kernel without a TPU (True, or ``pltpu.InterpretParams``). Raises ValueError for an unknown implementation or one that
    cannot run here, heads that key heads do not divide, and, for the kernel, types, widths or page sizes that it does not
    support.
    """
    function, options = choose(
        "gqa_decode", implementation, IMPLEMENTATIONS, default="reference", interpret=interpret, splits=True
    )
    if q_BTNH.shape[2] % pages["kv_WJSA"].shape[1]:
        raise ValueError(f"gqa_decode: {q_BTNH.shape[2]} query heads for {pages['kv_WJSA'].shape[1]} key heads")
    function = functools.partial(function, scale=scale, **options)
    places = {"page_table_BI": page_table_BI, "lengths_B": lengths_B, "batch_axes": batch_axes}
    return sharded.gqa_decode(function, q_BTNH, pages, **places)


__all__ = ["gqa_decode", "init_pages", "write_pages"]
