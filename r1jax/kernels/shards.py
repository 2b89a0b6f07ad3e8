"""A kernel on a mesh of several devices: each runs it on its part.

XLA cannot partition a kernel, so it is split by hand, with ``jax.shard_map``. The ``on_mesh`` of an operation's ``pallas_tpu``
says which dims are split, by the logical axes of ``r1jax.sharding.RULES``; what no rule splits is whole on every device, and
those do the same work.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh

from r1jax.sharding import MESH_AXES, Role, partition_spec


def mesh_to_split() -> AbstractMesh | None:
    """The ambient mesh (``jax.set_mesh``), if it is one of ``make_mesh``'s axes over several devices.

    None also where the program is one device's part already, or is split by hand over some of the axes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if mesh.size > 1 and set(mesh.axis_names) == set(MESH_AXES) and not mesh.manual_axes else None


def mesh_axes(
    names: tuple[str, ...], sizes: tuple[int, ...], mesh: AbstractMesh | None = None, *, role: Role = "train"
) -> list[tuple[str, ...]]:
    """Axes of the mesh that split dims of these logical axes and sizes: of each rule those that divide the dim, maybe none.

    ``mesh`` None is ``mesh_to_split``, and none at all where there is none.
    """
    mesh = mesh_to_split() if mesh is None else mesh
    if mesh is None:
        return [()] * len(names)
    found = []
    for entry, size in zip(partition_spec(names, (mesh.size,) * len(names), mesh, role=role), sizes, strict=True):
        chosen: tuple[str, ...] = ()
        for axis in (entry,) if isinstance(entry, str) else entry or ():
            if size % mesh.shape[axis] == 0:
                chosen, size = (*chosen, axis), size // mesh.shape[axis]
        found.append(chosen)
    return found


def run_on_parts(function: Callable, arrays: tuple, *, in_specs: tuple, out_specs: Any) -> Any:
    """``function`` of each device's part of the arrays (None where there is none), results put together.

    Where there is no mesh to split over, the parts are the whole arrays.

    Gradients follow from shard_map's rules without ``check_vma``, which kernels would have to be written for: the gradient of
    a result that several devices hold alike is shared out among them, that of such an argument is summed.
    """
    if mesh_to_split() is None:
        return function(*arrays)
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*arrays)
