"""Meshes, and the one table that maps logical axes to mesh axes.

Three vocabularies that never mix: dims (letters in array names), logical axes ("heads", "experts"), mesh axes ("data",
"fsdp", "expert", "tensor", "sequence"). ``RULES`` maps the second to the third, for each role that an array can have;
trying another layout is changing it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from r1jax import members

MESH_AXES = ("data", "fsdp", "expert", "tensor", "sequence")

Role = Literal["train", "rollout"]

_OVER_HEADS = {"vocab": ("tensor",), "heads": ("tensor",), "kv_heads": ("tensor",), "mlp": ("tensor",)}

RULES: dict[str, dict[str, tuple[str, ...]]] = {
    # Whole rows of tokens: gradients are summed over rows, parameters gathered when they are used (ZeRO-3).
    "train": {
        "batch": ("data", "fsdp", "expert"),
        "length": ("sequence",),
        "embed": ("fsdp", "sequence"),
        "latent": ("fsdp", "sequence"),
        "experts": ("expert",),
        **_OVER_HEADS,
    },
    # One token a row and step: parameters stay where they are, nothing is gathered, and experts spread widest.
    "rollout": {
        "batch": ("data", "fsdp", "expert", "sequence"),
        "length": (),
        "embed": (),
        "latent": (),
        "experts": ("expert", "fsdp", "sequence"),
        **_OVER_HEADS,
    },
}
"""Role -> logical axis -> the mesh axes that split it, the first of them before the others."""

TOKENS = ("batch", "length")
"""Logical axes of [B, T]."""
_MAY_STAY_WHOLE = ("batch", "length", "vocab", "latent")
"""Logical axes that are as large as the data, the tokenizer or a low rank: what does not divide one leaves it whole."""


def make_mesh(axes: Mapping[str, Any] | None = None, *, devices: Sequence[Any] | None = None) -> Mesh:
    """Mesh of ``axes``, name -> size; those that are not named have size 1.

    Where the devices are of several slices (TPU pods, or GPU hosts, that a slower network joins), ``axes["slices"]``
    says which axes go from one to the next: {"data": 4, "fsdp": 64, "slices": {"data": 4}} is one part of "data" a
    slice.

    ``devices``: all of them by default; a mesh takes the first ones. Raises ValueError, saying what to change, for no
    mapping, an unknown axis, a size below 1, more devices than there are, a number that does not divide them (or, where
    there are several processes, is not theirs), and slices that the axes do not divide into.
    """
    if axes and not hasattr(axes, "keys"):
        raise ValueError(f"mesh={axes!r} must be axes and their sizes, as in {{'data': 4}}")
    axes = dict(axes or {})
    slices = dict(axes.pop("slices", None) or {})
    for where, named in ("mesh", axes), ("mesh.slices", slices):
        if unknown := sorted(set(named) - set(MESH_AXES)):
            raise ValueError(f"{where}: unknown mesh axes {unknown}; choose from {list(MESH_AXES)}")
        if any(size < 1 for size in named.values()):
            raise ValueError(f"{where} axes must be at least 1, got {named}")
    devices = jax.devices() if devices is None else list(devices)
    shape, need, have = tuple(int(axes.get(name, 1)) for name in MESH_AXES), math.prod(axes.values()), len(devices)
    if need > have:
        raise ValueError(f"mesh {axes} needs {need} devices, this machine has {have}; make an axis smaller")
    if have % need:
        fits = [size for size in range(1, have + 1) if have % size == 0]
        raise ValueError(
            f"mesh {axes} is of {need} devices, which do not divide the {have} here; make its product one of {fits}"
        )
    if need < have and len({device.process_index for device in devices}) > 1:
        raise ValueError(f"mesh {axes} is of {need} devices and leaves processes without; make its product {have}")
    return Mesh(_arranged(shape, slices, devices[:need]), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def _arranged(shape: tuple[int, ...], slices: Mapping[str, int], devices: Sequence[Any]) -> np.ndarray:
    """The devices as an array of ``shape``: neighbours in the network are neighbours in it, slices are blocks of it."""
    num_slices = len({getattr(device, "slice_index", 0) for device in devices})
    if math.prod(slices.values()) != num_slices:
        raise ValueError(
            f"mesh.slices={dict(slices)} is {math.prod(slices.values())} slices, and these devices are of {num_slices}; name an "
            f"axis that goes over them, as in {{'data': {num_slices}}}"
        )
    for name, count in slices.items():
        if shape[MESH_AXES.index(name)] % count:
            raise ValueError(
                f"mesh axis {name!r} of {shape[MESH_AXES.index(name)]} does not divide into {count} slices; make it a multiple"
            )
    outer = tuple(slices.get(name, 1) for name in MESH_AXES)
    inner = tuple(size // count for size, count in zip(shape, outer, strict=True))

    def arranged(**options) -> np.ndarray:
        if num_slices == 1:
            return mesh_utils.create_device_mesh(shape, devices, **options)
        return mesh_utils.create_hybrid_device_mesh(inner, outer, devices, **options)

    try:
        return arranged()
    except NotImplementedError:  # the torus has no axes of these sizes: two of ours share one of its
        return arranged(allow_split_physical_axes=True)


def partition_spec(
    logical_axes: tuple[str | None, ...], shape: tuple[int, ...], mesh, *, role: Role = "train", name: str = "array"
) -> PartitionSpec:
    """Spec of one array: each logical axis takes the mesh axes of ``RULES[role]``; None is a dim that stays whole.

    Of a rule with several mesh axes those are taken that divide the dim. Raises ValueError, naming the array by
    ``name``, for a logical axis without a rule, two dims that would take one mesh axis, and a parameter's dim that the
    first axis of its rule does not divide. (A batch, a row's length, a vocabulary or a latent that is not divided stays
    whole.)
    """
    if len(logical_axes) != len(shape):
        raise ValueError(f"{name}: {len(logical_axes)} logical axes {logical_axes} for an array of shape {shape}")
    taken_by: dict[str, str | None] = {}
    entries: list[tuple[str, ...] | None] = []
    for logical, dim in zip(logical_axes, shape, strict=True):
        if logical is not None and logical not in RULES[role]:
            raise ValueError(
                f"{name}: no rule for the logical axis {logical!r} in the role {role!r}; add it to RULES, or name one of "
                f"{sorted(RULES[role])}"
            )
        chosen: list[str] = []
        for i, axis in enumerate(RULES[role][logical] if logical else ()):
            if other := taken_by.get(axis):
                raise ValueError(
                    f"{name}: {other!r} and {logical!r} of {logical_axes} both map to the mesh axis {axis!r} in the role {role!r}; "
                    "change one of the two rules"
                )
            taken_by[axis] = logical
            size = mesh.shape[axis]
            if dim % (size * math.prod(mesh.shape[a] for a in chosen)) == 0:
                chosen += [axis] if size > 1 else []
            elif i == 0 and logical not in _MAY_STAY_WHOLE:
                raise ValueError(
                    f"{name} {shape}: the mesh axis {axis!r} of {size} does not divide {logical!r}, which is {dim}; make "
                    f"mesh.{axis} a divisor of {dim}, such as {math.gcd(size, dim)}"
                )
        entries.append(tuple(chosen) or None)
    return PartitionSpec(*entries)


def axes_of(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes that an entry of a spec names."""
    return (entry,) if isinstance(entry, str) else entry or ()


def tree_shardings(logical_axes, shapes, mesh: Mesh, *, role: Role = "train"):
    """Tree of NamedSharding for a tree of logical axes (tuples) and a matching tree of arrays or shapes.

    Raises ValueError as ``partition_spec`` does, naming the leaf.
    """
    return jax.tree.map_with_path(
        lambda path, axes, leaf: NamedSharding(
            mesh, partition_spec(axes, leaf.shape, mesh, role=role, name=_name(path))
        ),
        logical_axes,
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def constrain(array: jax.Array, logical_axes: tuple[str | None, ...], *, role: Role = "train") -> jax.Array:
    """Pin an activation's layout to the ambient mesh (``jax.set_mesh``); without one this is the identity."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or members.AXIS in mesh.axis_names:
        return array
    return jax.lax.with_sharding_constraint(array, partition_spec(logical_axes, array.shape, mesh, role=role))


def place(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """A host array on the devices of ``sharding``; every process has the whole of it and puts its own shards there."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def place_batch(batch: Mapping[str, np.ndarray | np.generic]) -> dict[str, Any]:
    """A batch's host arrays on the ambient mesh (``jax.set_mesh``): their first dim is "batch", scalars are replicated.

    Without a mesh, and in a population, which places those of all members, the arrays stay where they are.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty or members.here() is not None:
        return dict(batch)

    def placed(array: np.ndarray) -> jax.Array:
        axes = ("batch",) + (None,) * (array.ndim - 1) if array.ndim else ()
        return place(array, NamedSharding(mesh, partition_spec(axes, array.shape, mesh)))

    return {name: placed(np.asarray(array)) for name, array in batch.items()}


def bytes_on_device(tree) -> int:
    """Bytes of one device's parts of arrays, or of ShapeDtypeStructs with shardings; none of those on the host."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
        if leaf.sharding.memory_kind != "pinned_host"
    )


def describe_sharding(tree) -> str:
    """A table of how a tree of arrays, or of ShapeDtypeStructs, with NamedShardings lies on its mesh; the last line
    adds up.

    A line an array: name, shape, type, what splits each dim ("-" is whole), bytes a device, and on how many devices
    each element is.
    """
    rows = [("name", "shape", "dtype", "split by", "bytes a device", "copies")]
    total, on_device = 0, 0
    mesh = jax.tree.leaves(tree)[0].sharding.mesh
    for path, leaf in jax.tree.leaves_with_path(tree):
        spec, part = leaf.sharding.spec, leaf.sharding.shard_shape(leaf.shape)
        size, local = math.prod(leaf.shape), math.prod(part) * leaf.dtype.itemsize
        copies = mesh.size * math.prod(part) // size if size else mesh.size
        split = ["*".join(axes_of(entry)) or "-" for entry in (*spec, *[None] * (len(leaf.shape) - len(spec)))]
        dims = "x".join(map(str, leaf.shape)) or "scalar"
        rows.append((_name(path), dims, str(leaf.dtype), " ".join(split), f"{local:,}", str(copies)))
        total, on_device = total + size * leaf.dtype.itemsize, on_device + local
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    where = f"mesh { {name: size for name, size in mesh.shape.items() if size > 1} }"
    return "\n".join([*lines, f"{where}: {on_device:,} bytes a device of {total:,} in {len(rows) - 1} arrays"])


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/") or "array"
