"""The definition as plain jnp: pages are gathered into one array of keys and one of values."""

import jax
import jax.numpy as jnp

from r1jax.kernels.flash_attention.reference import attention, with_rope
from r1jax.kernels.paged_decode.pages import Pages


def decode(queries: list[jax.Array], pages: Pages, *, page_table_BI, lengths_B, scale: float) -> jax.Array:
    """See ``r1jax.kernels.paged_decode``; MLA's queries are two, of the latent and of the rotated key."""
    (batch, num_queries, _, width), first = queries[0].shape, queries[0]
    if "kv_WJSA" in pages:
        kv_BISJA = jnp.swapaxes(pages["kv_WJSA"][page_table_BI], 2, 3)
        kv_BSJA = kv_BISJA.reshape(batch, -1, *kv_BISJA.shape[3:])
        q_BTNA, k_BSJA, v_BSJA = first, kv_BSJA[..., :width], kv_BSJA[..., width:]
    else:
        v_BSJA = pages["latent_WSC"][page_table_BI].reshape(batch, -1, width)[:, :, None]
        rope_BSR = jnp.swapaxes(pages["rope_WRS"][page_table_BI], 2, 3).reshape(*v_BSJA.shape[:2], -1)
        q_BTNA, k_BSJA = with_rope(first, v_BSJA, queries[1], rope_BSR)
    last_BT = lengths_B[:, None] - num_queries + jnp.arange(num_queries)
    mask_BTS = jnp.arange(k_BSJA.shape[1]) <= last_BT[:, :, None]  # itself and what is before it
    return attention(q_BTNA, k_BSJA, v_BSJA, mask_BTS=mask_BTS, scale=scale)
