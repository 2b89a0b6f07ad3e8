"""The programs that sample: weights laid out for the sampler, prefill of prompts, what slots begin with, and decode
segments with each number of slots that a phase goes through (``r1jax.plan.schedule``).
"""

from collections import defaultdict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from r1jax.kernels.paged_decode.pages import page_specs
from r1jax.models.transformer import Model
from r1jax.plan import budget
from r1jax.plan.assumed import Assumed
from r1jax.plan.program import Program, abstract_array, replicated, with_sharding, without
from r1jax.plan.schedule import Schedule, joined, lengths, simulate
from r1jax.rollout.programs import abstract_rows, make_programs
from r1jax.rollout.sampling import Sampling
from r1jax.rollout.slots import Sizes, bucketed, parts_here, power_of_two, session_sizes
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

SamplingSpec = RlSpec | RejectSpec | EvaluateSpec


class SampledBatch(NamedTuple):
    """What is sampled at a time."""

    num_prompts: int
    num_samples: int
    caps: dict[int, float]  # most new tokens -> share of the batches that have this cap
    steps: int = 1  # training steps that learn from it

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
        return SampledBatch(spec.questions_per_phase, spec.group_size, dict(shares), spec.updates_per_phase)
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
    spec: SamplingSpec, model: Model, state, mesh: Mesh, *, assumed: Assumed
) -> tuple[list[Program], Schedule]:
    """(weights for the sampler, prefill, what slots begin with, and decode segments; the schedule of a phase).

    Arrays have the sizes of the longest responses. Decode with fewer slots than the most takes less memory than with
    all: it is only counted. Raises ValueError, naming the key, for a rollout mesh that does not divide the model.
    """
    phase, rollout_mesh, engine = phase_of(spec), getattr(spec, "rollout_mesh", None), spec.engine
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
    prompt = -(-spec.max_prompt_tokens // engine.prompt_bucket) * engine.prompt_bucket
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        batch_axes, num_parts = parts_here()
        tokens = {cap: prompt + cap for cap in phase.caps}
        sizes = {
            cap: session_sizes(model, engine, num_slots=phase.num_sequences, num_tokens=most)
            for cap, most in tokens.items()
        }
        longest = sizes[max(sizes)]
        functions, layers = make_programs(model), _abstract_layers(model, longest, mesh, batch_axes)
    drafts = engine.num_drafts if engine.drafts != "none" else 0
    schedules = {
        cap: simulate(
            lengths(phase.num_sequences, mean=assumed.mean_new_tokens, longest=cap, sigma=assumed.length_sigma),
            sizes=sizes[cap].slots,
            num_parts=num_parts,
            segment=engine.segment,
            page_size=engine.page_size,
            prompt_tokens=assumed.mean_prompt_tokens,
            tokens_per_step=assumed.tokens_per_step(engine.drafts, drafts),
        )
        for cap in sizes
    }
    schedule = joined([(share, schedules[cap]) for cap, share in phase.caps.items()])
    common = {"static": {"batch_axes": batch_axes} if longest.is_paged else {}, "resident": resident}

    prompt = min(
        bucketed(spec.max_prompt_tokens - 1, engine.prompt_bucket), longest.num_tokens
    )  # all but the last token
    at_once = min(max(1, engine.prefill_tokens // prompt), phase.num_prompts)
    rows, most_begun = (power_of_two(-(-count // num_parts)) * num_parts for count in (at_once, longest.slots[0]))
    batch = [np.zeros((rows, prompt), np.int32), np.zeros(rows, np.int32)]
    if longest.is_paged:
        batch.append(np.zeros((rows, longest.table_width), np.int32))
        prefill, prefilled = functions.prefill_paged, (*weights, layers, *replicated(batch, mesh))
        pages = np.zeros((most_begun, 2), np.int32)
        begin, begun = functions.copy_pages, (layers, replicated(pages, mesh))
    else:
        prefill, prefilled = functions.prefill_dense, (*weights, *replicated(batch, mesh))
        of_prompts = jax.eval_shape(lambda: model.init_cache(batch=rows, length=prompt)).layers
        where = replicated([np.zeros(most_begun, np.int32)] * 2, mesh)
        begin, begun = functions.insert, (layers, _by_row(of_prompts, mesh), *where)
    calls = schedule.num_admissions + max(0, phase.num_prompts / at_once - 1) + schedule.carried_tokens / rows / prompt
    programs += [
        Program("prefill", budget.plan_prefill, prefill, prefilled, calls / phase.steps, {"prompts": rows, "length": prompt}, **common),
        Program("begin", budget.plan_begin, begin, begun, schedule.num_admissions / phase.steps, {}, **common),
    ]  # fmt: skip

    features = Sampling(temperature=spec.temperature, top_p=getattr(spec, "top_p", None) or 1.0).features
    static = {"steps": engine.segment, "features": features, "batch_axes": batch_axes, "drafts": engine.drafts}
    num_text = longest.num_tokens + 1 if engine.drafts == "ngram" else 0
    for index, stretch in enumerate(schedule.stretches):
        width = {
            "num_drafts": drafts,
            "num_text": num_text,
            "table_width": longest.table_width if longest.is_paged else 0,
        }
        decode_rows = replicated(abstract_rows(stretch.slots, features=features, **width), mesh)
        made = stretch.running * assumed.tokens_per_step(engine.drafts, drafts)
        programs.append(
            Program(
                f"decode, {stretch.slots:,} slots" if index else "decode",
                budget.plan_decode,
                functions.decode,
                (*weights, layers, decode_rows),
                stretch.steps / engine.segment / phase.steps,
                {
                    "slots": stretch.slots,
                    "tokens": 1 + drafts,
                    "steps": engine.segment,
                    "made": made,
                    "cached": stretch.cached,
                },
                static,
                resident,
                (engine.segment,),
                is_counted=index > 0,
            )
        )
    return programs, schedule


def _abstract_layers(model: Model, sizes: Sizes, mesh: Mesh, batch_axes: tuple[str, ...]):
    """The layers of a session's cache, which its programs hand on, as the engine makes them."""
    functions = make_programs(model)
    if not sizes.is_paged:
        return _by_row(functions.empty_dense.eval_shape(num_slots=sizes.slots[0], num_tokens=sizes.num_tokens), mesh)
    num_pages = parts_here()[1] * sizes.num_pages
    layers = functions.empty_paged.eval_shape(num_pages=num_pages, page_size=sizes.page_size, batch_axes=batch_axes)

    def laid_out(layer):
        specs = page_specs(layer, batch_axes, mesh)
        return {name: with_sharding(array, NamedSharding(mesh, specs[name])) for name, array in layer.items()}

    return tuple(map(laid_out, layers))


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
