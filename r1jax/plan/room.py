"""Is there room for the arrays of a stage on the devices that are here? By count, in a second, before anything is made.

Counted is what is there in any case: parameters, gradients or cache, moments, reference, a copy for the sampler. What a
forward pass keeps comes on top, so a stage that is let pass may still not fit; one that is refused cannot.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from r1jax.launch.device_memory import free_bytes
from r1jax.models.config import ModelConfig
from r1jax.plan.hardware import GIB
from r1jax.plan.sampling import phase_of, sampling_weights
from r1jax.policies.policy import abstract_policy
from r1jax.rollout.slots import abstract_layers, parts_here, session_sizes
from r1jax.rollout.weight_sync import make_rollout_mesh, sampling_model
from r1jax.sharding import bytes_on_device
from r1jax.specs.stages import EvaluateSpec, RejectSpec, RlSpec, TrainingSpec


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Bytes on a device of what a stage keeps, by name, and the keys that make it less."""

    always: dict[str, int]
    updating: dict[str, int]  # only while it updates
    sampling: dict[str, int]  # only while it samples
    keys: tuple[str, ...]
    sampler_keys: tuple[str, ...]  # for what is there while it samples

    @property
    def is_most_while_sampling(self) -> bool:
        return sum(self.sampling.values()) > sum(self.updating.values())

    @property
    def most(self) -> dict[str, int]:
        """What is there at once when it is most."""
        return self.always | (self.sampling if self.is_most_while_sampling else self.updating)


def count_arrays(spec: Any, config: ModelConfig, mesh: Mesh) -> Arrays:
    """The arrays of a stage that computes on ``mesh``, with a model of this config."""
    model, params, buffers = abstract_policy(config, mesh=mesh)
    weights = bytes_on_device(params)
    always, updating, sampling, keys = {"parameters": weights}, {}, {}, ["mesh"]
    engine_keys = ("engine.slots", "engine.cache_gb", "engine.dtype")
    if isinstance(spec, TrainingSpec):
        optimizer, offload = getattr(spec, "optimizer", None), getattr(spec, "offload", ())
        updating["gradients"] = weights
        if optimizer is not None and "optimizer" not in offload:
            always["moments"] = 2 * weights * jnp.dtype(optimizer.moments_dtype).itemsize // 4
            keys += ["optimizer.moments_dtype"] if optimizer.moments_dtype == "float32" else []
        if isinstance(spec, RlSpec) and spec.kl_coef and "reference" not in offload:
            always["reference"] = weights
            keys.append("kl_coef=0 (no reference)")
    if isinstance(spec, RlSpec | RejectSpec | EvaluateSpec):
        sampler, where = sampling_model(model, spec.engine.dtype), mesh
        if (rollout_mesh := getattr(spec, "rollout_mesh", None)) is not None:
            where = make_rollout_mesh(rollout_mesh.axes(), mesh)
        if rollout_mesh is not None or sampler is not model:
            state = {"params": params, "buffers": buffers}
            sampling["sampler's copy"] = bytes_on_device(sampling_weights(sampler, state, where)[0])
        sampling["cache"] = _cache_bytes(spec, sampler, where)
        if getattr(rollout_mesh, "first_device", None) is not None:
            sampling = {}  # on devices of its own
    return Arrays(always, updating, sampling, tuple(keys), engine_keys)


def check_room(spec: Any, config: ModelConfig, mesh: Mesh) -> None:
    """Raises ValueError, with the figures and the keys that help, where the arrays of a stage do not fit the devices here."""
    local = mesh.local_devices
    room = free_bytes(local)
    arrays = count_arrays(spec, config, mesh)
    needed = sum(arrays.most.values())
    if room is None or needed <= room:
        return
    keys = (*arrays.keys, *(arrays.sampler_keys if arrays.is_most_while_sampling else ()))
    parts = ", ".join(f"{name} {size / GIB:,.1f}" for name, size in arrays.most.items())
    whose = "are free here" if local[0].platform == "cpu" else f"has a {local[0].device_kind}"
    shared = f" for each of {len(local)} devices" if local[0].platform == "cpu" and len(local) > 1 else ""
    raise ValueError(
        f"needs {needed / GIB:,.1f} GiB ({parts}) besides activations, and {room / GIB:,.1f} {whose}{shared}; "
        f"what helps: a smaller model, {', '.join(keys)}"
    )


def _cache_bytes(spec: RlSpec | RejectSpec | EvaluateSpec, model: Any, mesh: Mesh) -> int:
    """Bytes on a device of the sampler's cache with the longest responses."""
    phase, bucket = phase_of(spec), spec.engine.prompt_bucket
    prompt = -(-spec.max_prompt_tokens // bucket) * bucket
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        tokens = prompt + max(phase.caps)
        sizes = session_sizes(model, spec.engine, num_slots=phase.num_sequences, num_tokens=tokens)
        num_parts = parts_here()[1]
        shape: dict[str, int] = {"num_pages": num_parts * sizes.num_pages}
        if not sizes.is_paged:
            shape = {"num_slots": sizes.slots[0], "num_tokens": sizes.num_tokens}
        layers = abstract_layers(model, spec.engine, **shape)
    return sum(array.size * array.dtype.itemsize for array in jax.tree.leaves(layers)) // num_parts
