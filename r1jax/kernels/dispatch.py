"""How an operation runs: which implementation, on which part of a mesh of several devices, with which gradient.

XLA cannot partition a kernel, so it is split by hand, with ``jax.shard_map``. An operation's ``pallas_tpu`` says which
dims are split, by the logical axes of ``r1jax.sharding.RULES``; what no rule splits is whole on every device, and those
do the same work.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh

from r1jax.kernels import hardware
from r1jax.sharding import MESH_AXES, Role, axes_of, partition_spec


def choose_implementation(
    operation: str, name: str, implementations: Mapping[str, Any], *, default: str, interpret: Any
) -> tuple[Any, dict[str, Any]]:
    """(what ``implementations`` has under ``name``, the further keyword arguments that it takes).

    ``name`` "auto" means "pallas_tpu" where a program for one TPU is traced, or for several of an ambient mesh over
    which it is split by hand; ``default`` elsewhere. ``interpret`` runs the kernel anywhere, slowly: True or
    ``pltpu.InterpretParams``.

    Raises ValueError, at trace time, for a name that there is not, the kernel where it cannot run, and ``interpret``
    with something that is no kernel.
    """
    if name == "auto":
        is_kernels = hardware.is_one_tpu() or (hardware.is_tpu() and mesh_to_split() is not None)
        name = "pallas_tpu" if is_kernels else default
    if name not in implementations:
        raise ValueError(f"{operation} has no implementation {name!r}; choose from {sorted(implementations)} or 'auto'")
    if name != "pallas_tpu":
        if interpret:
            raise ValueError(f"{operation}: only 'pallas_tpu' can be interpreted, not {name!r}")
        return implementations[name], {}
    if not interpret:
        hardware.require_tpu(operation)
    return implementations[name], {"interpret": interpret}


def mesh_to_split() -> AbstractMesh | None:
    """The ambient mesh (``jax.set_mesh``), if it is one of ``make_mesh``'s axes over several devices.

    None also where the program is one device's part already, or is split by hand over some of the axes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if mesh.size > 1 and set(mesh.axis_names) == set(MESH_AXES) and not mesh.manual_axes else None


def mesh_axes(
    names: tuple[str, ...], sizes: tuple[int, ...], mesh: AbstractMesh | None = None, *, role: Role = "train"
) -> list[tuple[str, ...]]:
    """Axes of the mesh that split dims of these logical axes and sizes: of each rule those that divide the dim, maybe
    none.

    ``mesh`` None is ``mesh_to_split``, and none at all where there is none.
    """
    mesh = mesh_to_split() if mesh is None else mesh
    if mesh is None:
        return [()] * len(names)
    chosen = []
    for entry, size in zip(partition_spec(names, (mesh.size,) * len(names), mesh, role=role), sizes, strict=True):
        axes: tuple[str, ...] = ()
        for axis in axes_of(entry):
            if size % mesh.shape[axis] == 0:
                axes, size = (*axes, axis), size // mesh.shape[axis]
        chosen.append(axes)
    return chosen


def run_on_parts(function: Callable, arrays: tuple, *, in_specs: tuple, out_specs: Any) -> Any:
    """``function`` of each device's part of the arrays (None where there is none), results put together.

    Where there is no mesh to split over, the parts are the whole arrays.

    Gradients follow from shard_map's rules without ``check_vma``, which kernels would have to be written for: the
    gradient of a result that several devices hold alike is shared out among them, that of such an argument is summed.
    """
    if mesh_to_split() is None:
        return function(*arrays)
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*arrays)


def with_gradient(forward: Callable, backward: Callable, *, static: tuple[int, ...] = ()) -> Callable:
    """The result of ``forward``, which gives (result, what backward needs), with the gradient that ``backward`` gives.

    ``static``: which arguments are no arrays; ``backward`` gets them first, then what it needs and the result's
    gradient.
    """

    def result(*arguments):
        return forward(*arguments)[0]

    function = jax.custom_vjp(result, nondiff_argnums=static)
    function.defvjp(forward, backward)
    return function
