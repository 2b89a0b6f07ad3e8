"""The programs that sample: weights laid out for the sampler, prefill of prompts, what slots begin with, and decode
segments with each number of slots that a phase goes through (``r1jax.plan.schedule``).
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.kernels.paged_decode.pages import page_specs
from r1jax.models.transformer import Model
from r1jax.plan import budget
from r1jax.plan.assumed import Assumed
from r1jax.plan.program import Program, abstract_array, replicated, with_sharding, without
from r1jax.plan.schedule import Schedule, joined, lengths, simulate
from r1jax.rollout.programs import Programs, abstract_rows
from r1jax.rollout.sampling import Sampling
from r1jax.rollout.slots import Sizes, abstract_layers, bucketed, parts_here, power_of_two, session_sizes
from r1jax.rollout.weight_sync import (
    is_stacked,
    make_layer_reshard,
    make_reshard,
    make_rollout_mesh,
    rollout_dtype,
    rollout_shardings,
    sampling_model,
)
from r1jax.sharding import bytes_on_device
from r1jax.specs.rollout import EngineSpec
from r1jax.specs.stages import EvaluateSpec, RejectSpec, RlSpec

SamplingSpec = RlSpec | RejectSpec | EvaluateSpec


class SampledBatch(NamedTuple):
    """What is sampled at a time."""

    num_prompts: int
    num_samples: int
    caps: dict[int, float]  # most new tokens -> share of the batches that have this cap
    steps: int = 1  # training steps that learn from it
    share: float = 1.0  # of the sequences that are done when it ends

    @property
    def num_sequences(self) -> int:
        return self.num_prompts * self.num_samples


def phase_of(spec: SamplingSpec) -> SampledBatch:
    """A phase or a batch of a stage."""
    if isinstance(spec, RlSpec):
        ends = [*(first for first, _ in spec.caps[1:]), spec.num_updates]
        shares: dict[int, float] = defaultdict(float)
        for (first, tokens), end in zip(spec.caps, ends, strict=True):
            shares[tokens] += max(0, min(end, spec.num_updates) - first) / spec.num_updates
        share = spec.questions_per_phase / spec.questions_in_flight
        return SampledBatch(spec.questions_in_flight, spec.group_size, dict(shares), spec.updates_per_phase, share)
    caps = {spec.max_new_tokens: 1.0}
    if isinstance(spec, RejectSpec):
        return SampledBatch(spec.prompts_per_batch, spec.samples_per_prompt, caps)
    return SampledBatch(min(spec.problems, spec.problems_per_batch), spec.samples, caps)


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
    spec: SamplingSpec, model: Model, state, mesh: Mesh, *, assumed: Assumed, devices: Sequence[Any] | None = None
) -> tuple[list[Program], Schedule]:
    """(weights for the sampler, prefill, what slots begin with, and decode segments; the schedule of a phase).

    Arrays have the sizes of the longest responses. Decode with fewer slots than the most takes less memory than with
    all: it is only counted. Weights that go to devices of the sampler's own are not counted. devices: all that there
    are. Raises ValueError, naming the key, for a rollout mesh that does not divide the model.
    """
    phase, rollout_mesh = phase_of(spec), getattr(spec, "rollout_mesh", None)
    programs, weights, resident = [], (state["params"], state["buffers"]), without(state, "params", "buffers")
    trainer, model = model, sampling_model(model, spec.engine.dtype)
    if rollout_mesh is not None or model is not trainer:
        sampler_mesh = make_rollout_mesh(rollout_mesh and rollout_mesh.axes(), mesh, devices=devices)
        try:
            weights = sampling_weights(model, state, sampler_mesh)
        except ValueError as error:
            if rollout_mesh is None:
                raise
            raise ValueError(f"rollout_mesh: {str(error).replace('make mesh.', 'make rollout_mesh.')}") from error
        if rollout_mesh is None or rollout_mesh.first_device is None:
            programs, resident = [_reshard(state, weights[0], sampler_mesh, steps=phase.steps)], dict(state)
        else:
            resident = {}
        mesh = sampler_mesh
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        sizes = _sizes(spec, model, phase)
        longest, (batch_axes, num_parts) = sizes[max(sizes)], parts_here()
        layers = _abstract_layers(model, spec.engine, longest, mesh)
        schedule = _schedule(spec.engine, phase, sizes, num_parts, assumed)
        functions = Programs(model, spec.engine.drafts, spec.engine.record_routing)
        given = _Given(spec, model, functions, mesh, weights, layers, longest, batch_axes, resident)
        begin = _programs_that_begin(given, phase, schedule)
    return programs + begin + _decode_programs(given, phase, schedule, assumed), schedule


class _Given(NamedTuple):
    """What all programs of a session have."""

    spec: SamplingSpec
    model: Model
    functions: Programs
    mesh: Mesh
    weights: tuple[Any, Any]
    layers: Any
    sizes: Sizes
    batch_axes: tuple[str, ...]
    resident: Any


def _sizes(spec: SamplingSpec, model: Model, phase: SampledBatch) -> dict[int, Sizes]:
    """By cap."""
    prompt = -(-spec.max_prompt_tokens // spec.engine.prompt_bucket) * spec.engine.prompt_bucket
    return {
        cap: session_sizes(model, spec.engine, num_slots=phase.num_sequences, num_tokens=prompt + cap)
        for cap in phase.caps
    }


def _schedule(
    engine: EngineSpec, phase: SampledBatch, sizes: Mapping[int, Sizes], num_parts: int, assumed: Assumed
) -> Schedule:
    """The mean over the caps."""
    by_cap = {
        cap: simulate(
            lengths(phase.num_sequences, mean=assumed.mean_new_tokens, longest=cap, sigma=assumed.length_sigma),
            sizes=sizes[cap].slots,
            num_parts=num_parts,
            segment=engine.segment,
            page_size=engine.page_size,
            prompt_tokens=assumed.mean_prompt_tokens,
            tokens_per_step=assumed.tokens_per_step(engine),
            share=phase.share,
        )
        for cap in phase.caps
    }
    schedule = joined([(share, by_cap[cap]) for cap, share in phase.caps.items()])
    return dataclasses.replace(schedule, num_pages=sizes[max(sizes)].num_pages)


def _programs_that_begin(given: _Given, phase: SampledBatch, schedule: Schedule) -> list[Program]:
    """Prefill of as many prompts as the spec allows at a time, and what slots begin with where all of them are free."""
    spec, sizes, mesh, functions = given.spec, given.sizes, given.mesh, given.functions
    num_parts = parts_here()[1]
    prompt = min(bucketed(spec.max_prompt_tokens, spec.engine.prompt_bucket), sizes.num_tokens)
    at_once = min(max(1, spec.engine.prefill_tokens // prompt), phase.num_prompts)
    rows, most_begun = (power_of_two(-(-count // num_parts)) * num_parts for count in (at_once, sizes.slots[0]))
    batch = [np.zeros((rows, prompt), np.int32), np.zeros(rows, np.int32)]
    if sizes.is_paged:
        table_PI, pages_N2 = np.zeros((rows, sizes.table_width), np.int32), np.zeros((most_begun, 2), np.int32)
        prefill, begin, static = functions.prefill_paged, functions.copy_pages, {"batch_axes": given.batch_axes}
        prefilled = (*given.weights, given.layers, *replicated([*batch, table_PI], mesh))
        begun = (given.layers, replicated(pages_N2, mesh))
    else:
        prefill, begin, static = functions.prefill_dense, functions.insert, {}
        of_prompts = abstract_layers(given.model, spec.engine, num_slots=rows, num_tokens=prompt)
        slots_N = np.zeros(most_begun, np.int32)
        prefilled = (*given.weights, *replicated(batch, mesh))
        begun = (given.layers, _by_row(of_prompts, mesh), *replicated([slots_N, slots_N], mesh))
    again = schedule.carried_tokens / (rows * prompt)  # of what is carried over, under the new weights
    calls = schedule.num_admissions + max(0, phase.num_prompts / at_once - 1) + again
    prompts = {"prompts": rows, "length": prompt, "mtp_layers": spec.engine.num_mtp_layers}
    common = {"static": static, "resident": given.resident}
    times = schedule.num_admissions / phase.steps
    return [
        Program("prefill", budget.plan_prefill, prefill, prefilled, calls / phase.steps, prompts, **common),
        Program("begin", budget.plan_begin, begin, begun, times, {}, **common),
    ]


def _decode_programs(given: _Given, phase: SampledBatch, schedule: Schedule, assumed: Assumed) -> list[Program]:
    """A segment with each number of slots."""
    spec, engine, sizes = given.spec, given.spec.engine, given.sizes
    features = Sampling(temperature=spec.temperature, top_p=getattr(spec, "top_p", None) or 1.0).features
    row = {
        "features": features,
        "num_drafts": engine.drafts_per_step,
        "num_text": sizes.num_tokens + 1 if engine.drafts == "ngram" else 0,
        "table_width": sizes.table_width if sizes.is_paged else 0,
    }
    step = {"tokens": 1 + engine.drafts_per_step, "steps": engine.segment, "mtp_layers": engine.num_mtp_layers}
    programs, params = [], _weights_of_steps(given.functions, given.weights[0], given.mesh)
    for index, stretch in enumerate(schedule.stretches):
        made = stretch.running * assumed.tokens_per_step(engine)
        rows = replicated(abstract_rows(stretch.slots, **row), given.mesh)
        programs.append(
            Program(
                decode_name(schedule, index),
                budget.plan_decode,
                given.functions.decode,
                (params, given.weights[1], given.layers, rows),
                stretch.steps / engine.segment / phase.steps,
                step | {"slots": stretch.slots, "made": made, "cached": stretch.cached},
                {"steps": engine.segment, "features": features, "batch_axes": given.batch_axes},
                given.resident,
                (engine.segment,),
                is_counted=index > 0,
            )
        )
    return programs


def _weights_of_steps(functions: Programs, params, mesh: Mesh):
    """The parameters as decode takes them: a stack of layers may be a tuple, and then lies as it did."""

    def laid_out(name: str, tree):
        if not isinstance(tree, tuple):
            return params[name]
        of_layer = jax.tree.map(lambda a: NamedSharding(mesh, PartitionSpec(*a.sharding.spec[1:])), params[name])
        return tuple(jax.tree.map(with_sharding, layer, of_layer) for layer in tree)

    shapes = jax.eval_shape(functions.weights_of_steps, params)
    return {name: laid_out(name, tree) for name, tree in shapes.items()}


def decode_name(schedule: Schedule, index: int) -> str:
    """The program of a stretch of the schedule."""
    return f"decode ({schedule.stretches[index].slots} slots)" if index else "decode"


def _abstract_layers(model: Model, spec: EngineSpec, sizes: Sizes, mesh: Mesh):
    """The layers of a session's cache, which its programs hand on, laid out as the engine has them."""
    if not sizes.is_paged:
        return _by_row(abstract_layers(model, spec, num_slots=sizes.slots[0], num_tokens=sizes.num_tokens), mesh)
    batch_axes, num_parts = parts_here()

    def laid_out(layer):
        specs = page_specs(layer, batch_axes, mesh)
        return {name: with_sharding(array, NamedSharding(mesh, specs[name])) for name, array in layer.items()}

    return tuple(map(laid_out, abstract_layers(model, spec, num_pages=num_parts * sizes.num_pages)))


def _by_row(layers, mesh: Mesh):
    """Layers of a dense cache, whose rows are cut like a batch."""
    return jax.tree.map(
        lambda a: abstract_array(a.shape, a.dtype, ("batch", *(None,) * (a.ndim - 1)), mesh, role="rollout"), layers
    )


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
