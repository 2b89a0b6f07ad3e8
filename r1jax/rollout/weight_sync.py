"""The trainer's weights for the sampler: another layout, another type, perhaps other devices.

The sampler wants them where it computes (``sharding.RULES``), in the type that it computes in. The copy is made array
by array, and of stacked layers one after the other, so that besides the copy no more is held than a layer of one array.
It lives only while something is sampled. It gives the same numbers, bit for bit: the model casts its weights to
``ModelConfig.dtype`` wherever it uses them, and those that it uses in float32 (``_IN_FLOAT32``) are not cast. Unless the
sampler computes in a type of its own (``engine.dtype``): then it is another model, by as much as rounding makes it.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.models.transformer import STACKS, Model, make_model
from r1jax.sharding import MESH_AXES, make_mesh, tree_shardings

FIRST_DEVICE = "first_device"
_IN_FLOAT32 = ("scale", "w_router_DE")  # last name of a parameter that is used in float32: norms, and the router


def make_rollout_mesh(axes: Mapping[str, int] | None, mesh: Mesh, *, devices: Sequence[Any] | None = None) -> Mesh:
    """The sampler's mesh next to the trainer's ``mesh``. ``axes``, of a ``RolloutMeshSpec``, is one of

    None: the trainer's mesh.
    {"tensor": 4, ...}: the trainer's devices, in their order, arranged by these axes (those not named have size 1).
    {"tensor": 4, ..., "first_device": 8}: as many other devices as the axes say, from this one of ``devices`` on, which
        are ``jax.devices()`` by default.

    Raises ValueError, saying what to change, for another number of devices than the trainer's, other devices that do
    not exist or are the trainer's, and any in a run of several processes, of which each must see the samples.
    """
    if axes is None:
        return mesh
    axes = dict(axes)
    first = axes.pop(FIRST_DEVICE, None)
    need, devices = math.prod(axes.values()), jax.devices() if devices is None else list(devices)
    if first is None:
        if need != mesh.size:
            words = f"rollout_mesh {axes} is of {need} devices, and the trainer has {mesh.size}"
            other = f"give it devices of its own by {FIRST_DEVICE!r}"
            raise ValueError(f"{words}; make its product {mesh.size}, or {other}")
        # In the trainer's order, so that one program can go from one layout to the other.
        shape = [axes.get(name, 1) for name in MESH_AXES]
        return Mesh(mesh.devices.reshape(shape), MESH_AXES, axis_types=mesh.axis_types)
    if jax.process_count() > 1:
        raise ValueError(
            f"rollout_mesh: {FIRST_DEVICE}={first} gives the sampler devices of its own, which takes a single process, and this "
            f"run has {jax.process_count()}; leave it out, and the sampler uses the trainer's devices"
        )
    if not 0 <= first <= len(devices) - need:
        raise ValueError(
            f"rollout_mesh: {axes} from {FIRST_DEVICE}={first} on is of {need} devices; there are {len(devices)}"
        )
    own = devices[first : first + need]
    if shared := sorted(device.id for device in set(own) & set(mesh.devices.flat)):
        raise ValueError(
            f"rollout_mesh: {axes} from {FIRST_DEVICE}={first} on takes the devices {shared}, which are the trainer's: that has "
            f"the first {mesh.size}, so begin at {mesh.size}, or make `mesh` smaller"
        )
    return make_mesh(axes, devices=own)


class WeightSync:
    """Lends the weights of a train state to the sampler, laid out and typed for it on its mesh.

    mesh: the trainer's. axes: see ``make_rollout_mesh``; None: the sampler gets the trainer's arrays, unless it computes
    in another type, ``dtype``. Raises ValueError as that does, and naming a parameter that an axis of the mesh does not
    divide.
    """

    def __init__(self, model: Model, *, mesh: Mesh, axes: Mapping[str, int] | None, dtype: str | None = None):
        self._model = sampling_model(model, dtype)
        self.mesh = make_rollout_mesh(axes, mesh)
        is_same = axes is None and self._model is model
        self._shardings = None if is_same else rollout_shardings(model, self.mesh)

    def weights_of(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """{"params", "buffers"} of ``state`` on the sampler's mesh; on devices of its own they are copies."""
        params, buffers = state["params"], state["buffers"]
        if self._shardings is not None:
            params, buffers = to_rollout(self._model, params, buffers, shardings=self._shardings)
        return {"params": params, "buffers": buffers}

    @contextlib.contextmanager
    def lent(self, weights: dict[str, Any]) -> Iterator[None]:
        """A context in which the sampler's mesh is the ambient one, of this thread; ``weights`` are emptied at its end."""
        try:
            with jax.set_mesh(self.mesh):
                yield
        finally:
            weights.clear()

    @contextlib.contextmanager
    def lend(self, state: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """``weights_of`` the state, ``lent``."""
        weights = self.weights_of(state)
        with self.lent(weights):
            yield weights


def sampling_model(model: Model, dtype: str | None) -> Model:
    """The model that the sampler runs: it computes in ``dtype``; None: as it does in the trainer."""
    is_same = dtype in (None, model.config.dtype)
    return model if is_same else make_model(dataclasses.replace(model.config, dtype=dtype))


def rollout_shardings(model: Model, mesh: Mesh) -> tuple[Any, Any]:
    """Those of (params, buffers) in the role "rollout". Raises ValueError naming a parameter that an axis does not divide."""
    params, buffers = (
        tree_shardings(axes, shapes, mesh, role="rollout")
        for axes, shapes in zip(model.logical_axes(), model.abstract(), strict=True)
    )
    return params, buffers


def for_sampling(model: Model, params, buffers, *, mesh: Mesh, dtype: str | None = None) -> tuple[Any, Any]:
    """(params, buffers) for a program that only samples, on ``mesh``, in ``dtype`` (``sampling_model``).

    Those given are consumed, one by one.
    """
    model = sampling_model(model, dtype)
    return to_rollout(model, params, buffers, shardings=rollout_shardings(model, mesh), is_consumed=True)


def to_rollout(
    model: Model, params, buffers, *, shardings: tuple[Any, Any], is_consumed: bool = False
) -> tuple[Any, Any]:
    """(params, buffers) as the sampler wants them: laid out by ``shardings`` and, but for ``_IN_FLOAT32``, in the
    compute type.

    An array that is so already is handed on. With ``is_consumed`` the others are deleted once their copies are there.
    """

    def moved(path, array: jax.Array, target: NamedSharding) -> jax.Array:
        dtype = rollout_dtype(path, model)
        if array.dtype == dtype and array.sharding.is_equivalent_to(target, array.ndim):
            return array
        copy = _move(array, target, dtype, is_stacked=is_stacked(path))
        if is_consumed:
            copy.block_until_ready()
            array.delete()
        return copy

    params = jax.tree.map_with_path(moved, params, shardings[0])
    buffers = jax.tree.map(lambda bias, target: jax.device_put(bias, target), buffers, shardings[1])
    return params, buffers


def rollout_dtype(path, model: Model) -> jnp.dtype:
    """The type of the parameter at ``path`` (of ``jax.tree.map_with_path``) in the sampler's copy."""
    return jnp.dtype(jnp.float32 if path[-1].key in _IN_FLOAT32 else model.config.dtype)


def is_stacked(path) -> bool:
    """Whether the parameter at ``path`` has a leading dim of layers, which are moved one by one (``make_layer_reshard``)."""
    return path[0].key in STACKS


@functools.cache
def make_reshard(target: NamedSharding, dtype: jnp.dtype):
    """Jitted (array) -> the array in ``dtype``, laid out by ``target``, whose devices it must be on, in their order."""
    return jax.jit(lambda array: array.astype(dtype), out_shardings=target)


@functools.cache
def make_layer_reshard(target: NamedSharding, dtype: jnp.dtype):
    """Jitted (copy, array, layer) -> the copy, which is consumed, with that layer of the array; as ``make_reshard``
    otherwise.

    A loop over layers within one program would not do: for TPUs XLA takes the cast out of it, for all layers together.
    """
    of_layer = NamedSharding(target.mesh, PartitionSpec(*target.spec[1:]))

    def move(copy, array, layer):
        part = jax.lax.dynamic_index_in_dim(array, layer, keepdims=False).astype(dtype)
        part = jax.lax.with_sharding_constraint(part, of_layer)
        return jax.lax.dynamic_update_index_in_dim(copy, part, layer, 0)

    return jax.jit(move, out_shardings=target, donate_argnums=0)


@functools.cache
def _make_zeros(shape: tuple[int, ...], dtype: jnp.dtype, target: NamedSharding):
    """Jitted () -> zeros, each device its own part (``jnp.zeros(device=...)`` makes one part and sends it round)."""
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=target)


def _resharded(array: jax.Array, target: NamedSharding, dtype: jnp.dtype, *, is_stacked: bool) -> jax.Array:
    """The array in ``dtype``, laid out by ``target`` on the devices where it is."""
    if not is_stacked:
        return make_reshard(target, dtype)(array)
    copy, move = _make_zeros(array.shape, dtype, target)(), make_layer_reshard(target, dtype)
    for layer in range(array.shape[0]):
        copy = move(copy, array, layer)
    return copy


def _move(array: jax.Array, target: NamedSharding, dtype: jnp.dtype, *, is_stacked: bool) -> jax.Array:
    """The array in ``dtype``, laid out by ``target``, also on other devices."""
    source, there = array.sharding, cast(Mesh, target.mesh)
    if source.device_set == target.device_set:
        return _resharded(array, target, dtype, is_stacked=is_stacked)
    if not isinstance(source, NamedSharding) or source.mesh.size != there.size:
        return jax.device_put(array.astype(dtype), target)  # by way of the host, where parts differ
    # As many devices there as here: the parts are made here, so that each only has to be copied.
    devices = cast(Mesh, source.mesh).devices.reshape(there.devices.shape)
    here = Mesh(devices, MESH_AXES, axis_types=there.axis_types)
    parts = _resharded(array, NamedSharding(here, target.spec), dtype, is_stacked=is_stacked)
    return jax.device_put(parts, target)
