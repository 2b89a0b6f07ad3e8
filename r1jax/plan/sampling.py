"""The programs that sample: weights laid out for the sampler, prefill of a phase's prompts, a decode segment."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from r1jax.kernels.paged_decode.pages import page_specs
from r1jax.models.transformer import Model
from r1jax.plan import budget
from r1jax.plan.program import Program, abstract_array, replicated, with_sharding, without
from r1jax.rollout.engine import MAX_STOP_IDS, Engine, RowLayout, make_engine
from r1jax.rollout.rows import PagedRows, prompts_at_once
from r1jax.rollout.weight_sync import (
    FIRST_DEVICE,
    is_stacked,
    make_layer_reshard,
    make_reshard,
    make_rollout_mesh,
    rollout_dtype,
    rollout_shardings,
)
from r1jax.sharding import bytes_on_device
from r1jax.specs.stages import EvaluateSpec, RejectSpec, RlSpec


class SampledBatch(NamedTuple):
    """What is sampled at a time."""

    num_prompts: int
    num_samples: int
    max_new_tokens: int
    steps: int = 1  # training steps that learn from it


def phase_of(spec: RlSpec | RejectSpec | EvaluateSpec) -> SampledBatch:
    """A phase or a batch of a stage."""
    if isinstance(spec, RlSpec):
        new_tokens = spec.longest - spec.max_prompt_tokens
        return SampledBatch(spec.questions_per_phase, spec.group_size, new_tokens, spec.updates_per_phase)
    if isinstance(spec, RejectSpec):
        return SampledBatch(spec.prompts_per_batch, spec.samples_per_prompt, spec.max_new_tokens)
    return SampledBatch(min(spec.problems, spec.problems_per_batch), spec.samples, spec.max_new_tokens)


def sampling_weights(model: Model, state, mesh: Mesh) -> tuple[Any, Any]:
    """(params, buffers), abstract, as ``weight_sync.to_rollout`` gives them."""
    shardings = rollout_shardings(model, mesh)
    params = jax.tree.map_with_path(
        lambda path, a, target: jax.ShapeDtypeStruct(a.shape, rollout_dtype(path, model), sharding=target),
        state["params"],
        shardings[0],
    )
    return params, jax.tree.map(with_sharding, state["buffers"], shardings[1])


def sampling_programs(
    spec: RlSpec | RejectSpec | EvaluateSpec, model: Model, state, mesh: Mesh, *, mean_new_tokens: int
) -> list[Program]:
    """Weights for the sampler, prefill of a phase's prompts, and a decode segment on the longest cache, which takes
    most.

    Raises ValueError, naming the key, for a rollout mesh that does not divide the model.
    """
    phase, rollout_mesh = phase_of(spec), getattr(spec, "rollout_mesh", None)
    programs, weights, resident = [], (state["params"], state["buffers"]), without(state, "params", "buffers")
    if rollout_mesh is not None:
        if rollout_mesh.first_device is not None:
            raise ValueError(
                f"rollout_mesh: {FIRST_DEVICE} gives the sampler a part of the machine to itself: plan the two parts as two configs"
            )
        mesh = make_rollout_mesh(rollout_mesh.axes(), mesh)
        try:
            weights = sampling_weights(model, state, mesh)
        except ValueError as error:
            raise ValueError(f"rollout_mesh: {str(error).replace('make mesh.', 'make rollout_mesh.')}") from error
        programs, resident = [_reshard(state, weights[0], mesh, steps=phase.steps)], dict(state)
    segment, bucket = spec.engine.segment, spec.engine.prompt_bucket
    engine = make_engine(model, spec.engine, pad_id=0)
    prompt, num_segments = -(-spec.max_prompt_tokens // bucket) * bucket, -(-phase.max_new_tokens // segment)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        at_once = prompts_at_once(phase.num_prompts, phase.num_samples, spec.engine.max_rows)
        rows = engine._rows(at_once, prompt, num_samples=phase.num_samples, max_new_tokens=phase.max_new_tokens)
    calls, slots = -(-phase.num_prompts // at_once) / phase.steps, prompt + num_segments * segment
    batch = replicated(rows.lay_out([[0]] * at_once, pad_id=0) | {"first_row": np.int32(0)}, mesh)
    settings = {
        "temperature": np.float32(1.0),
        "top_p": None if getattr(spec, "top_p", None) is None else np.float32(1.0),
        "stop_ids": np.zeros(MAX_STOP_IDS, np.int32),
        "budget": np.int32(0),
        "key": jax.eval_shape(jax.random.key, 0),
    }
    sizes = {"prompts": batch["tokens_PT"].shape[0], "length": prompt, "samples": rows.num_samples}
    prefilled = (*weights, batch)
    programs.append(
        Program("prefill", budget.plan_prefill, engine._prefill, prefilled, calls, sizes, {"rows": rows}, resident)
    )
    decoded = (*weights, decode_state(engine, weights, batch, rows=rows, slots=slots), replicated(settings, mesh))
    mean_slots = min(prompt + mean_new_tokens, slots)
    sizes = {"rows": at_once * phase.num_samples, "slots": slots, "steps": segment, "mean_slots": mean_slots}
    static, trips = {"steps": segment}, (segment,)
    programs.append(
        Program(
            "decode", budget.plan_decode, engine._decode, decoded, calls * num_segments, sizes, static, resident, trips
        )
    )
    return programs


def _reshard(state, params, mesh: Mesh, *, steps: int) -> Program:
    """What makes the sampler's ``params``, as ``WeightSync.lend`` does, of the largest array, which takes most memory."""
    arrays = zip(jax.tree.leaves_with_path(state["params"]), jax.tree.leaves(params), strict=True)
    (path, source), target = max(arrays, key=lambda pair: pair[1].size)
    function, arguments, calls = make_reshard(target.sharding, target.dtype), (source,), 1
    if is_stacked(path):
        function = make_layer_reshard(target.sharding, target.dtype)
        arguments = (target, source, replicated(jax.ShapeDtypeStruct((), jnp.int32), mesh))
        calls = source.shape[0]
    others = [leaf for leaf in jax.tree.leaves(state["params"]) if leaf is not source]
    copies = [leaf for leaf in jax.tree.leaves(params) if leaf is not target]
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    sizes = {"output_bytes": bytes_on_device(target)}
    resident = state | {"params": others, "copy": copies}
    return Program(
        f"reshard ({name})", budget.plan_reshard, function, arguments, calls / steps, sizes, resident=resident
    )


def decode_state(engine: Engine, weights, batch, *, rows: RowLayout, slots: int) -> dict[str, Any]:
    """What the engine's prefill gives and its decode takes, abstract, laid out by the rules of the role "rollout".

    slots: of a dense cache at its longest.
    """
    mesh = batch["tokens_PT"].sharding.mesh
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        state = engine._prefill.eval_shape(*weights, batch, rows=rows)
        room = slots - rows.prompt_length
        state["cache"] = jax.eval_shape(lambda cache: rows.with_room(cache, room), state["cache"])
    num_rows = state["done_B"].shape[0]

    def per_row(leaf):
        first = "batch" if leaf.shape[:1] == (num_rows,) else None
        axes = (first, *(None,) * (leaf.ndim - 1))[: leaf.ndim]
        return abstract_array(leaf.shape, leaf.dtype, axes, mesh, role="rollout")

    state = jax.tree.map(per_row, state)
    if isinstance(rows, PagedRows):
        pools = []
        for layer in state["cache"].layers:
            specs = page_specs(layer, rows.batch_axes, mesh)
            pools.append({name: with_sharding(a, NamedSharding(mesh, specs[name])) for name, a in layer.items()})
        state["cache"] = dataclasses.replace(state["cache"], layers=tuple(pools))
    return state
