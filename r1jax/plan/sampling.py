"""The programs that sample: weights laid out for the sampler, prefill of a phase's prompts, a decode segment."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from r1jax.kernels.paged_decode.pages import page_specs
from r1jax.models.transformer import Model
from r1jax.plan.program import Program
from r1jax.plan.shapes import laid_out, placed, whole, without
from r1jax.rollout.engine import MAX_STOP_IDS, Rows, make_engine
from r1jax.rollout.pages import PagedRows, prompts_at_once
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
from r1jax.specs.mesh import RolloutMeshSpec
from r1jax.specs.stages import EvaluateSpec, RejectSpec, RlSpec


def for_sampling(model: Model, state, mesh: Mesh) -> tuple[Any, Any]:
    """(params, buffers) as ``weight_sync.to_rollout`` gives them."""
    shardings = rollout_shardings(model, mesh)
    params = jax.tree.map_with_path(
        lambda path, a, target: jax.ShapeDtypeStruct(a.shape, rollout_dtype(path, model), sharding=target),
        state["params"],
        shardings[0],
    )
    return params, jax.tree.map(laid_out, state["buffers"], shardings[1])


def _lent(
    rollout_mesh: RolloutMeshSpec | None, model: Model, state, mesh: Mesh, *, steps: int
) -> tuple[Mesh, tuple, dict, list[Program]]:
    """(the sampler's mesh, its weights, what lies beside them, the program that makes them) as ``WeightSync.lend`` does."""
    if rollout_mesh is None:
        return mesh, (state["params"], state["buffers"]), without(state, "params", "buffers"), []
    if rollout_mesh.first_device is not None:
        raise ValueError(
            f"rollout_mesh: {FIRST_DEVICE} gives the sampler a part of the machine to itself: plan the two parts as two configs"
        )
    sampler_mesh = make_rollout_mesh(rollout_mesh.axes(), mesh)
    params, buffers = for_sampling(model, state, sampler_mesh)
    # Array by array: that of the largest takes most.
    arrays = zip(jax.tree.leaves_with_path(state["params"]), jax.tree.leaves(params), strict=True)
    (path, source), target = max(arrays, key=lambda pair: pair[1].size)
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    function, arguments, calls = make_reshard(target.sharding, target.dtype), (source,), 1
    if is_stacked(path):
        function = make_layer_reshard(target.sharding, target.dtype)
        arguments = (target, source, whole(jax.ShapeDtypeStruct((), jnp.int32), sampler_mesh))
        calls = source.shape[0]
    others = {"copy": [leaf for leaf in jax.tree.leaves(params) if leaf is not target]}
    reshard = Program(
        f"reshard ({name})",
        "reshard",
        function,
        arguments,
        calls=calls / steps,
        sizes={"output_bytes": bytes_on_device(target)},
        resident=state | {"params": [leaf for leaf in jax.tree.leaves(state["params"]) if leaf is not source]} | others,
    )
    return sampler_mesh, (params, buffers), dict(state), [reshard]


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
    steps: int,
) -> list[Program]:
    """Weights for the sampler, prefill of a phase's prompts, and a decode segment on the longest cache, which takes most."""
    mesh, weights, resident, programs = _lent(rollout_mesh, model, state, mesh, steps=steps)
    engine = make_engine(model, spec.engine, pad_id=0)
    prompt = -(-spec.max_prompt_tokens // engine.spec.prompt_bucket) * engine.spec.prompt_bucket
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        at_once = prompts_at_once(num_prompts, num_samples, engine.spec.max_rows)
        rows = engine._rows(at_once, prompt, num_samples=num_samples, max_new_tokens=max_new_tokens)
    num_batches, num_segments = -(-num_prompts // at_once), -(-max_new_tokens // engine.spec.segment)
    batch: dict[str, Any] = rows.lay_out([[0]] * at_once, pad_id=0) | {"first_row": np.int32(0)}

    def settings():
        return {
            "temperature": jnp.float32(1.0),
            "top_p": None if getattr(spec, "top_p", None) is None else jnp.float32(1.0),
            "stop_ids": jnp.zeros((MAX_STOP_IDS,), jnp.int32),
            "budget": jnp.int32(0),
            "key": jax.random.key(0),
        }

    slots = prompt + num_segments * engine.spec.segment
    decoded = decode_state(model, rows, batch, mesh=mesh, slots=slots)
    return [
        *programs,
        Program(
            "prefill",
            "prefill",
            engine._prefill,
            (*weights, whole(jax.eval_shape(lambda: batch), mesh)),
            calls=num_batches / steps,
            sizes={"prompts": len(batch["tokens_PT"]), "length": prompt, "samples": rows.num_samples},
            static={"rows": rows},
            resident=resident,
        ),
        Program(
            "decode",
            "decode",
            engine._decode,
            (*weights, decoded, whole(jax.eval_shape(settings), mesh)),
            calls=num_batches * num_segments / steps,
            sizes={
                "rows": at_once * num_samples,
                "slots": slots,
                "steps": engine.spec.segment,
                "mean_slots": min(prompt + mean_new_tokens, slots),
            },
            static={"steps": engine.spec.segment},
            resident=resident,
            dynamic_trips=(engine.spec.segment,),
        ),
    ]


def decode_state(model: Model, rows: Rows, batch, *, mesh: Mesh, slots: int) -> dict[str, Any]:
    """What the engine's prefill gives and its decode takes, shapes laid out by the rules of the role "rollout".

    slots: those of a dense cache that has grown. The weights decide nothing of it, so none are needed.
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
        return placed(leaf.shape, leaf.dtype, (*axes, *(None,) * (leaf.ndim - 1)), mesh, role="rollout")

    def pool(layer):
        specs = page_specs(layer, rows.batch_axes, mesh) if isinstance(rows, PagedRows) else {}
        return {name: laid_out(a, NamedSharding(mesh, specs[name])) for name, a in layer.items()}

    state = jax.eval_shape(made)
    if not isinstance(rows, PagedRows):
        return jax.tree.map(per_row, state)
    cache = state.pop("cache")
    layers = tuple(pool(layer) for layer in cache.layers)
    table_BI, lengths_B = per_row(cache.page_table_BI), per_row(cache.lengths_B)
    cache = dataclasses.replace(cache, layers=layers, page_table_BI=table_BI, lengths_B=lengths_B)
    return jax.tree.map(per_row, state) | {"cache": cache}
