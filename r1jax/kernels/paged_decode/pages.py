"""Pools of pages: writing them, and how they lie on a mesh of several devices.

A layer's cache is a pool of W pages of S tokens each. Token t of sequence b is in slot t % S of page ``page_table_BI[b,
t // S]``; the pages of a sequence are in any order and anywhere in the pool. ``lengths_B`` counts the tokens of each
sequence; the T queries of a call are the last of them. Entries of the table past a sequence's last page may be any page
of the pool, slots past its length any finite numbers.

On a mesh each device has the pages of its own sequences. Sequences, table and pool are cut alike, over ``batch_axes``:
the pages that a row of the table names must be in that row's part of the pool. The table keeps the numbers of the whole
pool, so that an operation means the same with and without a mesh. Heads are cut by the rule of "heads" or "kv_heads";
all by the rules of the role "rollout".
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from r1jax.kernels import dispatch
from r1jax.kernels.paged_decode.shapes import page_shapes

Pages = dict[str, jax.Array]
"""The pools of one layer: {"kv_WJSA"} of GQA, or {"latent_WSC", "rope_WRS"} of MLA."""


def init_pages(*, num_pages: int, page_size: int, dtype, batch_axes: tuple[str, ...] = (), **widths: int) -> Pages:
    """An empty pool of one layer, laid out on the ambient mesh; ``widths`` are those of ``page_shapes``."""
    shapes = page_shapes(page_size, **widths)
    pages = {name: jnp.zeros((num_pages, *shape), dtype) for name, shape in shapes.items()}
    if dispatch.mesh_to_split() is None:
        return pages
    return jax.lax.with_sharding_constraint(pages, page_specs(pages, batch_axes))


def write_pages(pages: Pages, new: Pages, *, page_table_BI, start_B, counts_B=None, batch_axes=()) -> Pages:
    """The pool with T tokens of each sequence at positions start_B[b] .. + T − 1.

    ``new`` holds "k_BTJH" and "v_BTJH", or "latent_BTC" and "rope_BTR". A sequence whose ``start_B`` is negative writes
    nothing, nor does a token past the end of the table or, with ``counts_B``, past the first so many of its sequence:
    padding.
    """
    heads = page_specs(pages, batch_axes)["kv_WJSA"][1] if "kv_WJSA" in pages else None
    new_specs = {name: P(batch_axes, None, heads, None) if a.ndim == 4 else P(batch_axes) for name, a in new.items()}
    in_specs = (new_specs, P(batch_axes), P(batch_axes))
    return run_on_pages(_write, pages, page_table_BI, new, start_B, counts_B, in_specs=in_specs, batch_axes=batch_axes)


def _write(pages, page_table_BI, new, start_B, counts_B):
    places = {"page_table_BI": page_table_BI, "start_B": start_B, "counts_B": counts_B}
    if "kv_WJSA" in pages:
        kv_BTJA = jnp.concatenate([new["k_BTJH"], new["v_BTJH"]], axis=-1)
        return {"kv_WJSA": write_tokens(pages["kv_WJSA"], kv_BTJA, slot_dim=2, **places)}
    return {
        "latent_WSC": write_tokens(pages["latent_WSC"], new["latent_BTC"], slot_dim=1, **places),
        "rope_WRS": write_tokens(pages["rope_WRS"], new["rope_BTR"], slot_dim=2, **places),
    }


def write_tokens(pool, new, *, slot_dim: int, page_table_BI, start_B, counts_B=None) -> jax.Array:
    """One array of ``write_pages``: ``pool`` [W, ...], whose dim ``slot_dim`` is S, with ``new`` [B, T, ...].

    Sequences do not write to one page. Pages are read, changed and written back as wholes: the pool is indexed by page
    alone, so that it keeps the layout that the kernels read. Scattered by slots, XLA lays it out for the scatter, and
    copies all of it for the kernel in every step.
    """
    num_pages, page_size, num_tokens = pool.shape[0], pool.shape[slot_dim], new.shape[1]
    num_touched = (num_tokens + page_size - 2) // page_size + 1
    entry_BE = start_B[:, None] // page_size + jnp.arange(num_touched)
    token_BES = entry_BE[:, :, None] * page_size + jnp.arange(page_size) - start_B[:, None, None]
    is_new_BES = (token_BES >= 0) & (token_BES < (num_tokens if counts_B is None else counts_B[:, None, None]))
    is_new_BES &= (start_B[:, None] >= 0)[..., None] & (entry_BE < page_table_BI.shape[1])[..., None]
    page_BE = jnp.take_along_axis(page_table_BI, jnp.clip(entry_BE, 0, page_table_BI.shape[1] - 1), axis=1)

    def in_pages(array_BESX):
        return jnp.moveaxis(array_BESX, 2, slot_dim + 1)

    rest = (1,) * (new.ndim - 2)
    if num_tokens == 1:
        new_BESX = new[:, :, None]
    else:
        token_BXS = jnp.clip(token_BES, 0, num_tokens - 1).reshape(len(new), -1, *rest)
        new_BESX = jnp.take_along_axis(new, token_BXS, axis=1).reshape(*token_BES.shape, *new.shape[2:])
    changed = jnp.where(in_pages(is_new_BES.reshape(*is_new_BES.shape, *rest)), in_pages(new_BESX), pool[page_BE])
    target_BE = jnp.where(is_new_BES.any(-1), page_BE, num_pages)  # which is dropped
    return pool.at[target_BE].set(changed.astype(pool.dtype), mode="drop")


def copy(pages: Pages, *, pages_B2: jax.Array, batch_axes: tuple[str, ...]) -> Pages:
    """The pool where page ``pages_B2[b, 1]`` holds what page ``pages_B2[b, 0]``, of the same part, held."""

    def part(pages, pages_B2):
        return {name: pool.at[pages_B2[:, 1]].set(pool[pages_B2[:, 0]]) for name, pool in pages.items()}

    return run_on_pages(part, pages, pages_B2, in_specs=(), batch_axes=batch_axes)


def page_specs(pages: Pages, batch_axes: tuple[str, ...], mesh=None) -> dict[str, P]:
    """How the arrays of a pool lie on a mesh, by default the ambient one: key heads, where there are any, are its second dim."""

    def spec(name: str, array: jax.Array) -> P:
        if name != "kv_WJSA":
            return P(batch_axes, *[None] * (array.ndim - 1))
        (heads,) = dispatch.mesh_axes(("kv_heads",), array.shape[1:2], mesh, role="rollout")
        return P(batch_axes, heads, *[None] * (array.ndim - 2))

    return {name: spec(name, array) for name, array in pages.items()}


def run_on_pages(
    function: Callable, pages: Pages, page_table_BI, *arrays, in_specs: tuple, out_specs=None, batch_axes
) -> Any:
    """function(pages, page_table_BI, *arrays) of each device's part, tables in the numbers of that part's pool.

    ``out_specs`` None: the result is a pool.
    """
    if dispatch.mesh_to_split() is None:
        return function(pages, page_table_BI, *arrays)

    def part(pages, page_table_BI, *arrays):
        num_pages = jax.tree.leaves(pages)[0].shape[0]
        first = jax.lax.axis_index(batch_axes) * num_pages if batch_axes else 0
        return function(pages, page_table_BI - first, *arrays)

    pool = page_specs(pages, batch_axes)
    specs = (pool, P(batch_axes, None), *in_specs)
    return dispatch.run_on_parts(part, (pages, page_table_BI, *arrays), in_specs=specs, out_specs=out_specs or pool)
