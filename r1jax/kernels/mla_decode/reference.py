"""Absorbed MLA over a paged cache as plain jnp: the definition, and with it the page layout (beside ``kernels.paged``).

Of a token a page holds the latent after its norm and the rotated key that all heads share (V3 Sec. 2.1.1; spec A.3.3: 576
numbers in V3), as ``{"latent_WSC", "rope_WRS"}``. The rope part has tokens last: 64 numbers would fill half of a TPU tile's
128 lanes, S = 128 tokens fill them all, so that a page occupies what it holds.
"""

import jax
import jax.numpy as jnp

from r1jax.kernels.flash_attention.reference import attention, with_rope
from r1jax.kernels.paged import decode_mask, write_tokens


def init_pages(*, num_pages: int, page_size: int, latent_dim: int, rope_dim: int, dtype) -> dict[str, jax.Array]:
    """An empty pool of one layer."""
    return {
        "latent_WSC": jnp.zeros((num_pages, page_size, latent_dim), dtype),
        "rope_WRS": jnp.zeros((num_pages, rope_dim, page_size), dtype),
    }


def write_pages(pages, new, *, page_table_BI: jax.Array, start_B: jax.Array, counts_B=None) -> dict[str, jax.Array]:
    """The pool with T tokens of each sequence at positions start_B[b] .. + T − 1; ``new`` holds "latent_BTC" and "rope_BTR".

    A sequence whose ``start_B`` is negative writes nothing, nor does a token past the end of the table or, with ``counts_B``,
    past the first so many of its sequence: padding.
    """
    places = {"page_table_BI": page_table_BI, "start_B": start_B, "counts_B": counts_B}
    return {
        "latent_WSC": write_tokens(pages["latent_WSC"], new["latent_BTC"], slot_dim=1, **places),
        "rope_WRS": write_tokens(pages["rope_WRS"], new["rope_BTR"], slot_dim=2, **places),
    }


def mla_decode(q_latent_BTNC, q_rope_BTNR, pages, *, page_table_BI, lengths_B, scale: float) -> jax.Array:
    """See ``r1jax.kernels.mla_decode.mla_decode``."""
    batch, num_queries = q_latent_BTNC.shape[:2]
    latent_BSC = pages["latent_WSC"][page_table_BI].reshape(batch, -1, q_latent_BTNC.shape[-1])
    rope_BSR = jnp.swapaxes(pages["rope_WRS"][page_table_BI], 2, 3).reshape(*latent_BSC.shape[:2], -1)
    mask_BTS = decode_mask(lengths_B, num_queries=num_queries, num_keys=latent_BSC.shape[1])
    latent_BS1C = latent_BSC[:, :, None]
    q_BTNA, k_BS1A = with_rope(q_latent_BTNC, latent_BS1C, q_rope_BTNR, rope_BSR)
    return attention(q_BTNA, k_BS1A, latent_BS1C, mask_BTS=mask_BTS, scale=scale)
