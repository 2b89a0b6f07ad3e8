"""Meshes, and the one table that maps logical axes to mesh axes.

Three vocabularies that never mix: dims (letters in array names), logical axes ("heads", "experts"), mesh axes ("data",
"fsdp", "expert", "tensor", "sequence"). ``RULES`` maps the second to the third; trying another layout is changing it.
"""

import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "expert", "tensor", "sequence")

RULES: dict[str, tuple[str, ...]] = {
    # activations
    "batch": ("data", "fsdp", "expert"),
    # parameters
    "vocab": ("tensor",),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "experts": ("expert",),
}


def make_mesh(axes: Mapping[str, int] | None = None) -> Mesh:
    """Mesh over the first prod(axes) devices; axes that are not named have size 1.

    Raises ValueError for an unknown axis or for more devices than there are.
    """
    axes = dict(axes or {})
    unknown = sorted(set(axes) - set(MESH_AXES))
    if unknown:
        raise ValueError(f"unknown mesh axes {unknown}; choose from {list(MESH_AXES)}")
    shape = tuple(int(axes.get(name, 1)) for name in MESH_AXES)
    if min(shape) < 1:
        raise ValueError(f"mesh axes must be at least 1, got {axes}")
    need, have = math.prod(shape), jax.device_count()
    if jax.process_count() > 1 and need != have:
        raise ValueError(
            f"mesh {axes} has {need} devices and the {jax.process_count()} processes of this run {have}: "
            f"every process has a part in the mesh, so choose axes whose product is {have}"
        )
    if need > have:
        raise ValueError(f"mesh {axes} needs {need} devices, this machine has {have}")
    return jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES), devices=jax.devices()[:need])


def partition_spec(logical_axes: tuple[str | None, ...], shape: tuple[int, ...], mesh) -> PartitionSpec:
    """Spec of one array: each logical axis takes the mesh axes of ``RULES`` that divide its dim and are still free."""
    if len(logical_axes) != len(shape):
        raise ValueError(f"{len(logical_axes)} logical axes {logical_axes} for an array of shape {shape}")
    used: set[str] = set()
    entries: list[tuple[str, ...] | None] = []
    for name, dim in zip(logical_axes, shape, strict=True):
        chosen: list[str] = []
        for axis in RULES.get(name, ()) if name else ():
            size = mesh.shape[axis]
            if size > 1 and axis not in used and dim % (size * math.prod(mesh.shape[a] for a in chosen)) == 0:
                chosen.append(axis)
        used.update(chosen)
        entries.append(tuple(chosen) or None)
    return PartitionSpec(*entries)


def tree_shardings(logical_axes, shapes, mesh: Mesh):
    """Tree of NamedSharding for a tree of logical axes (tuples) and a matching tree of arrays or shapes."""
    return jax.tree.map(
        lambda axes, leaf: NamedSharding(mesh, partition_spec(axes, leaf.shape, mesh)),
        logical_axes,
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def constrain(array: jax.Array, logical_axes: tuple[str | None, ...]) -> jax.Array:
    """Pin an activation's layout to the ambient mesh (``jax.set_mesh``); without one this is the identity."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return array
    return jax.lax.with_sharding_constraint(array, partition_spec(logical_axes, array.shape, mesh))


def place(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """A host array on the devices of ``sharding``; every process has the whole of it and puts its own shards there."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def place_batch(batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array | np.ndarray]:
    """A batch's host arrays on the ambient mesh (``jax.set_mesh``): their first dim is "batch", scalars are replicated.

    Without a mesh of several devices the arrays stay where they are.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty or mesh.size == 1:
        return dict(batch)

    def placed(array: np.ndarray) -> jax.Array:
        axes = ("batch",) + (None,) * (array.ndim - 1) if array.ndim else ()
        return place(array, NamedSharding(mesh, partition_spec(axes, array.shape, mesh)))

    return {name: placed(np.asarray(array)) for name, array in batch.items()}
