"""The programs that sample: weights laid out for the sampler, prefill of a phase's prompts, a decode segment."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from r1jax.kernels.paged_decode.pages import page_specs
from r1jax.models.transformer import Model
from r1jax.plan.program import Program, abstract_array, replicated, with_sharding, without
from r1jax.rollout.engine import MAX_STOP_IDS, RowLayout, make_engine
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
from r1jax.specs.training import RolloutMeshSpec


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
    spec: RlSpec | RejectSpec | EvaluateSpec,
    model: Model,
    state,
    mesh: Mesh,
    *,
    rollout_mesh: RolloutMeshSpec | None = None,
    num_prompts: int,
    num_samples: int,
    max_new_tokens: int,
    mean_new_tokens: int,
    steps: int = 1,
) -> list[Program]:
    """Weights for the sampler, prefill of a phase's prompts, and a decode segment on the longest cache, which takes most.

    steps: training steps of a phase. Raises ValueError, naming the key, for a rollout mesh that does not divide the model.
    """
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
        programs, resident = [_reshard(state, weights[0], mesh, steps=steps)], dict(state)
    segment = spec.engine.segment
    engine = make_engine(model, spec.engine, pad_id=0)
    prompt = -(-spec.max_prompt_tokens // spec.engine.prompt_bucket) * spec.engine.prompt_bucket
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        at_once = prompts_at_once(num_prompts, num_samples, spec.engine.max_rows)
        rows = engine._rows(at_once, prompt, num_samples=num_samples, max_new_tokens=max_new_tokens)
    num_batches, num_segments = -(-num_prompts // at_once), -(-max_new_tokens // segment)
    batch: dict[str, Any] = rows.lay_out([[0]] * at_once, pad_id=0) | {"first_row": np.int32(0)}

    def settings():
        return {
            "temperature": jnp.float32(1.0),
            "top_p": None if getattr(spec, "top_p", None) is None else jnp.float32(1.0),
            "stop_ids": jnp.zeros((MAX_STOP_IDS,), jnp.int32),
            "budget": jnp.int32(0),
            "key": jax.random.key(0),
        }

    slots = prompt + num_segments * segment
    decoded = decode_state(model, rows, batch, mesh=mesh, slots=slots)
    prefill = Program(
        "prefill",
        "prefill",
        engine._prefill,
        (*weights, replicated(jax.eval_shape(lambda: batch), mesh)),
        calls=num_batches / steps,
        sizes={"prompts": len(batch["tokens_PT"]), "length": prompt, "samples": rows.num_samples},
        static={"rows": rows},
        resident=resident,
    )
    mean_slots = min(prompt + mean_new_tokens, slots)
    decode = Program(
        "decode",
        "decode",
        engine._decode,
        (*weights, decoded, replicated(jax.eval_shape(settings), mesh)),
        calls=num_batches * num_segments / steps,
        sizes={"rows": at_once * num_samples, "slots": slots, "steps": segment, "mean_slots": mean_slots},
        static={"steps": segment},
        resident=resident,
        dynamic_trips=(segment,),
    )
    return [*programs, prefill, decode]


def _reshard(state, params, mesh: Mesh, *, steps: int) -> Program:
    """What makes the sampler's ``params`` on its mesh, as ``WeightSync.lend`` does: array by array, of which the largest takes most."""
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
    return Program(f"reshard ({name})", "reshard", function, arguments, calls / steps, sizes, resident=resident)


def decode_state(model: Model, rows: RowLayout, batch, *, mesh: Mesh, slots: int) -> dict[str, Any]:
    """What the engine's prefill gives and its decode takes, abstract, laid out by the rules of the role "rollout".

    slots: of a dense cache at its longest.
    """
    num_rows, config = len(batch["tokens_PT"]) * rows.num_samples, model.config

    def made():
        if isinstance(rows, PagedRows):
            cache = model.init_paged_cache(
                page_table_BI=batch["page_table_BI"],
                num_pages=rows.num_parts * rows.pages_per_part,
                page_size=rows.page_size,
                batch_axes=rows.batch_axes,
            )
        else:
            cache = model.init_cache(batch=num_rows, length=slots)
        return {
            "cache": cache,
            "hidden_BD": jnp.zeros((num_rows, config.model_dim), config.dtype),
            "position_B": jnp.zeros((num_rows,), jnp.int32),
            "row_B": jnp.zeros((num_rows,), jnp.int32),
            "done_B": jnp.zeros((num_rows,), bool),
            "step": jnp.int32(0),
        }

    def per_row(leaf):
        axes = ("batch",) if leaf.ndim and leaf.shape[0] == num_rows else (None,) * min(leaf.ndim, 1)
        return abstract_array(leaf.shape, leaf.dtype, (*axes, *(None,) * (leaf.ndim - 1)), mesh, role="rollout")

    def pool(layer):
        specs = page_specs(layer, rows.batch_axes, mesh) if isinstance(rows, PagedRows) else {}
        return {name: with_sharding(a, NamedSharding(mesh, specs[name])) for name, a in layer.items()}

    state = jax.eval_shape(made)
    if not isinstance(rows, PagedRows):
        return jax.tree.map(per_row, state)
    cache = state.pop("cache")
    layers = tuple(pool(layer) for layer in cache.layers)
    table_BI, lengths_B = per_row(cache.page_table_BI), per_row(cache.lengths_B)
    cache = dataclasses.replace(cache, layers=layers, page_table_BI=table_BI, lengths_B=lengths_B)
    return jax.tree.map(per_row, state) | {"cache": cache}
