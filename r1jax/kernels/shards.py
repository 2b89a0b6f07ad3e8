"""A kernel on a mesh of several devices: each runs it on its part.

XLA cannot partition a kernel, so it is split by hand, with ``jax.shard_map``. The ``sharded.py`` of an operation says which
dims are split, by the logical axes of ``r1jax.sharding.RULES``: a dim that its mesh axes do not divide is whole on every
device, and those do the same work.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh

from r1jax.sharding import partition_spec


def mesh_to_split() -> AbstractMesh | None:
    """The ambient mesh (``jax.set_mesh``), if it has several devices and the program is not one device's part already."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 or mesh.manual_axes else mesh


def mesh_axes(names: tuple[str, ...], sizes: tuple[int, ...], mesh: AbstractMesh) -> list[tuple[str, ...]]:
    """The mesh axes over which dims of these logical axes and sizes are split: none, one or several for each."""
    spec = partition_spec(names, sizes, mesh)
    return [() if axes is None else (axes,) if isinstance(axes, str) else tuple(axes) for axes in spec]


def run(function: Callable, arrays: tuple, *, in_specs: tuple, out_specs: Any) -> Any:
    """``function`` of each device's part of the arrays (None where there is none), results put together.

    Gradients follow from shard_map's rules without ``check_vma``, which kernels would have to be written for: the gradient of
    a result that several devices hold alike is shared out among them, that of such an argument is summed.
    """
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*arrays)
