"""Shapes that say how they lie on a mesh: what programs are compiled from."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from r1jax.sharding import Role, partition_spec


def placed(shape, dtype, axes: tuple[str | None, ...], mesh: Mesh, *, role: Role = "train") -> jax.ShapeDtypeStruct:
    """An array of these logical axes."""
    return laid_out(
        jax.ShapeDtypeStruct(shape, dtype), NamedSharding(mesh, partition_spec(axes, shape, mesh, role=role))
    )


def whole(tree: Any, mesh: Mesh) -> Any:
    """Arrays of which every device has all."""
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda a: laid_out(a, sharding), tree)


def laid_as(shape: Any, other: Any) -> jax.ShapeDtypeStruct:
    """An array that lies as another."""
    return laid_out(shape, other.sharding)


def laid_out(shape: Any, sharding: Sharding) -> jax.ShapeDtypeStruct:
    """An array of this sharding."""
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def without(state: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The other entries."""
    return {name: tree for name, tree in state.items() if name not in names}
