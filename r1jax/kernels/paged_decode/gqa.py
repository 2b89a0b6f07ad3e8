"""Grouped-query attention over pages: the definition as plain jnp, the page layout, and what the kernel does with a page.

A page holds for each of J key heads the rotated key and the value of S tokens, side by side: ``kv_WJSA``, A = 2H. A head of 64
then fills the 128 lanes of a TPU tile, and a page of all heads is one read. Key heads come first so that they can be sharded.
"""

import jax
import jax.numpy as jnp

from r1jax.kernels.flash_attention.reference import attention
from r1jax.kernels.paged_decode.pages import Pages, decode_mask
from r1jax.kernels.paged_decode.shapes import Shape
from r1jax.kernels.tpu_kernel import NT, dot

NAME = "gqa_decode"


def init_pages(*, num_pages: int, page_size: int, num_kv_heads: int, head_dim: int, dtype) -> Pages:
    """An empty pool of one layer."""
    return {"kv_WJSA": jnp.zeros((num_pages, num_kv_heads, page_size, 2 * head_dim), dtype)}


def reference(q_BTNH, pages: Pages, *, page_table_BI, lengths_B, scale: float) -> jax.Array:
    """See ``r1jax.kernels.paged_decode.gqa_decode``."""
    batch, num_queries, _, head_dim = q_BTNH.shape
    kv_BISJA = jnp.swapaxes(pages["kv_WJSA"][page_table_BI], 2, 3)
    kv_BSJA = kv_BISJA.reshape(batch, -1, *kv_BISJA.shape[3:])
    mask_BTS = decode_mask(lengths_B, num_queries=num_queries, num_keys=kv_BSJA.shape[1])
    return attention(q_BTNH, kv_BSJA[..., :head_dim], kv_BSJA[..., head_dim:], mask_BTS=mask_BTS, scale=scale)


def page(queries: list, page_of_head: list):
    """(scores, values) of a page's refs of one key head."""
    (q_ref,), (kv_ref,) = queries, page_of_head
    head_dim = q_ref.shape[-1]
    return dot(q_ref[...], kv_ref[:, :head_dim], contracted=NT), kv_ref[:, head_dim:]


def shape_of(widths: list[int], pages: Pages, **sizes) -> Shape:
    """The shape of a call, by the widths of its queries and its pages; ``sizes`` are what both kinds have."""
    _, kv_heads, page_size, _ = pages["kv_WJSA"].shape
    return Shape(kv_heads=kv_heads, page_size=page_size, head_dim=widths[0], **sizes)


def _shape(heads: tuple[int, int, int], *, batch: int, tokens: int, queries=1, dtype="bfloat16") -> Shape:
    return Shape(
        batch=batch, queries=queries, heads=heads[0], kv_heads=heads[1], head_dim=heads[2], page_size=128,
        pages_per_sequence=tokens // 128, num_pages=batch * tokens // 128, dtype=dtype,
    )  # fmt: skip


SHAPES = {
    "qwen2.5_7b_4k": _shape((28, 4, 128), batch=32, tokens=4096),
    "qwen2.5_7b_speculative": _shape((28, 4, 128), batch=16, tokens=4096, queries=4),
    "llama3.3_70b_8k": _shape((64, 8, 128), batch=8, tokens=8192),
    "smollm2_2k": _shape((9, 3, 64), batch=32, tokens=2048),
    "mini_qwen": _shape((4, 2, 32), batch=16, tokens=512, dtype="float32"),
}
"""Shapes that people run, on one device."""
