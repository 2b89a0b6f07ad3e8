"""Pools of pages on a mesh of several devices: each has the pages of its own sequences.

Sequences, table and pool are cut alike, over ``batch_axes``: the pages that a row of the table names must be in that row's part
of the pool. The table keeps the numbers of the whole pool, so that an operation means the same with and without a mesh. Heads
are cut by the rule of "heads" or "kv_heads"; all by the rules of the role "rollout".
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from r1jax.kernels import shards

Pages = dict[str, jax.Array]


def run(
    function: Callable, pages: Pages, page_table_BI: jax.Array, arrays: tuple, *, batch_axes: tuple[str, ...],
    page_specs: dict[str, P], in_specs: tuple, out_specs: Any,
) -> Any:  # fmt: skip
    """function(pages, page_table_BI, *arrays) of each device's part, tables in the numbers of that part's pool."""

    def part(pages, page_table_BI, *arrays):
        num_pages = jax.tree.leaves(pages)[0].shape[0]
        first = jax.lax.axis_index(batch_axes) * num_pages if batch_axes else 0
        return function(pages, page_table_BI - first, *arrays)

    specs = (page_specs, P(batch_axes, None), *in_specs)
    return shards.run(part, (pages, page_table_BI, *arrays), in_specs=specs, out_specs=out_specs)


def page_specs(pages: Pages, batch_axes: tuple[str, ...], mesh) -> dict[str, P]:
    """How the arrays of a pool lie on a mesh: key heads, where there are any, are its second dim."""

    def spec(name: str, array: jax.Array) -> P:
        if name != "kv_WJSA":
            return P(batch_axes, *[None] * (array.ndim - 1))
        (heads,) = shards.mesh_axes(("kv_heads",), array.shape[1:2], mesh, role="rollout")
        return P(batch_axes, heads, *[None] * (array.ndim - 2))

    return {name: spec(name, array) for name, array in pages.items()}


def constrain(pages: Pages, *, batch_axes: tuple[str, ...]) -> Pages:
    """The pool, laid out on the ambient mesh where there is one of several devices."""
    mesh = shards.mesh_to_split()
    return pages if mesh is None else jax.lax.with_sharding_constraint(pages, page_specs(pages, batch_axes, mesh))


def write(function: Callable, pages: Pages, new, *, page_table_BI, start_B, counts_B, batch_axes) -> Pages:
    """A reference's ``write_pages``, each device writing its own part."""
    mesh = shards.mesh_to_split()
    if mesh is None:
        return function(pages, new, page_table_BI=page_table_BI, start_B=start_B, counts_B=counts_B)
    pool = page_specs(pages, batch_axes, mesh)
    heads = pool["kv_WJSA"][1] if "kv_WJSA" in pool else None
    new_specs = {name: P(batch_axes, None, heads, None) if a.ndim == 4 else P(batch_axes) for name, a in new.items()}

    def part(pages, page_table_BI, new, start_B, counts_B):
        return function(pages, new, page_table_BI=page_table_BI, start_B=start_B, counts_B=counts_B)

    return run(
        part, pages, page_table_BI, (new, start_B, counts_B), batch_axes=batch_axes, page_specs=pool,
        in_specs=(new_specs, P(batch_axes), P(batch_axes)), out_specs=pool,
    )  # fmt: skip


def copy(pages: Pages, *, pages_B2: jax.Array, batch_axes: tuple[str, ...]) -> Pages:
    """The pool where page ``pages_B2[b, 1]`` holds what page ``pages_B2[b, 0]``, of the same part, held."""

    def part(pages, pages_B2):
        return {name: pool.at[pages_B2[:, 1]].set(pool[pages_B2[:, 0]]) for name, pool in pages.items()}

    mesh = shards.mesh_to_split()
    if mesh is None:
        return part(pages, pages_B2)
    pool = page_specs(pages, batch_axes, mesh)
    return run(part, pages, pages_B2, (), batch_axes=batch_axes, page_specs=pool, in_specs=(), out_specs=pool)
