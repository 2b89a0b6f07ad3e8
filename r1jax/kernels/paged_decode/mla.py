"""Absorbed MLA over pages: the definition as plain jnp, the page layout, and what the kernel does with a page.

Of a token a page holds the latent after its norm and the rotated key that all heads share (V3 Sec. 2.1.1; spec A.3.3: 576
numbers in V3), as ``{"latent_WSC", "rope_WRS"}``. The rope part has tokens last: 64 numbers would fill half of a TPU tile's
128 lanes, S = 128 tokens fill them all, so that a page occupies what it holds.
"""

import jax
import jax.numpy as jnp

from r1jax.kernels.flash_attention.reference import attention, with_rope
from r1jax.kernels.paged_decode.pages import Pages, decode_mask
from r1jax.kernels.paged_decode.shapes import Shape
from r1jax.kernels.tpu_kernel import NT, dot

NAME = "mla_decode"


def init_pages(*, num_pages: int, page_size: int, latent_dim: int, rope_dim: int, dtype) -> Pages:
    """An empty pool of one layer."""
    return {
        "latent_WSC": jnp.zeros((num_pages, page_size, latent_dim), dtype),
        "rope_WRS": jnp.zeros((num_pages, rope_dim, page_size), dtype),
    }


def reference(q_latent_BTNC, q_rope_BTNR, pages: Pages, *, page_table_BI, lengths_B, scale: float) -> jax.Array:
    """See ``r1jax.kernels.paged_decode.mla_decode``."""
    batch, num_queries = q_latent_BTNC.shape[:2]
    latent_BSC = pages["latent_WSC"][page_table_BI].reshape(batch, -1, q_latent_BTNC.shape[-1])
    rope_BSR = jnp.swapaxes(pages["rope_WRS"][page_table_BI], 2, 3).reshape(*latent_BSC.shape[:2], -1)
    mask_BTS = decode_mask(lengths_B, num_queries=num_queries, num_keys=latent_BSC.shape[1])
    latent_BS1C = latent_BSC[:, :, None]
    q_BTNA, k_BS1A = with_rope(q_latent_BTNC, latent_BS1C, q_rope_BTNR, rope_BSR)
    return attention(q_BTNA, k_BS1A, latent_BS1C, mask_BTS=mask_BTS, scale=scale)


def page(queries: list, page_of_head: list):
    """(scores, values) of a page's refs."""
    (q_latent_ref, q_rope_ref), (latent_ref, rope_ref) = queries, page_of_head
    latent = latent_ref[...]
    return dot(q_latent_ref[...], latent, contracted=NT) + dot(q_rope_ref[...], rope_ref[...]), latent


def shape_of(widths: list[int], pages: Pages, **sizes) -> Shape:
    """The shape of a call, by the widths of its queries and its pages; ``sizes`` are what both kinds have."""
    latent_dim, rope_dim = widths
    return Shape(latent_dim=latent_dim, rope_dim=rope_dim, page_size=pages["latent_WSC"].shape[1], **sizes)


def _v3(batch: int, queries: int, tokens: int) -> Shape:
    return Shape(
        batch=batch, queries=queries, heads=128, latent_dim=512, rope_dim=64, page_size=128,
        pages_per_sequence=tokens // 128, num_pages=batch * tokens // 128,
    )  # fmt: skip


SHAPES = {
    "v3_4k": _v3(32, 1, 4096),
    "v3_4k_speculative": _v3(32, 2, 4096),
    "v3_32k": _v3(8, 1, 32_768),
    "mini_v3": Shape(
        batch=16, queries=1, heads=4, latent_dim=48, rope_dim=16, pages_per_sequence=4, page_size=128, num_pages=64,
        dtype="float32",
    ),
}  # fmt: skip
"""Shapes that people run, on one device."""
