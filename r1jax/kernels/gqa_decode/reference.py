"""Grouped-query attention over a paged cache as plain jnp: the definition, and the page layout (beside ``kernels.paged``).

A page holds for each of J key heads the rotated key and the value of S tokens, side by side: ``kv_WJSA``, A = 2H. A head of 64
then fills the 128 lanes of a TPU tile, and a page of all heads is one read. Key heads come first so that they can be sharded.
"""

import jax
import jax.numpy as jnp

from r1jax.kernels.flash_attention.reference import attention
from r1jax.kernels.paged import decode_mask, write_tokens


def init_pages(*, num_pages: int, page_size: int, num_kv_heads: int, head_dim: int, dtype) -> dict[str, jax.Array]:
    """An empty pool of one layer."""
    return {"kv_WJSA": jnp.zeros((num_pages, num_kv_heads, page_size, 2 * head_dim), dtype)}


def write_pages(pages, new, *, page_table_BI: jax.Array, start_B: jax.Array, counts_B=None) -> dict[str, jax.Array]:
    """The pool with T tokens of each sequence at positions start_B[b] .. + T − 1; ``new`` holds "k_BTJH" and "v_BTJH".

    A sequence whose ``start_B`` is negative writes nothing, nor does a token past the end of the table or, with ``counts_B``,
    past the first so many of its sequence: padding.
    """
    kv_BTJA = jnp.concatenate([new["k_BTJH"], new["v_BTJH"]], axis=-1)
    places = {"page_table_BI": page_table_BI, "start_B": start_B, "counts_B": counts_B}
    return {"kv_WJSA": write_tokens(pages["kv_WJSA"], kv_BTJA, slot_dim=2, **places)}


def gqa_decode(q_BTNH, pages, *, page_table_BI, lengths_B, scale: float) -> jax.Array:
    """See ``r1jax.kernels.gqa_decode.gqa_decode``."""
    batch, num_queries, _, head_dim = q_BTNH.shape
    kv_BISJA = jnp.swapaxes(pages["kv_WJSA"][page_table_BI], 2, 3)
    kv_BSJA = kv_BISJA.reshape(batch, -1, *kv_BISJA.shape[3:])
    mask_BTS = decode_mask(lengths_B, num_queries=num_queries, num_keys=kv_BSJA.shape[1])
    return attention(q_BTNH, kv_BSJA[..., :head_dim], kv_BSJA[..., head_dim:], mask_BTS=mask_BTS, scale=scale)
