"""The programs that a stage runs, as jitted functions with abstract arguments on a mesh that need not be here.

They are the stage's own: ``build`` of ``r1jax.stages`` gives update and log-probs, ``Engine`` prefill and decode. What only a
run can know is assumed, and said: how long responses are on average (``Assumed``).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from r1jax.kernels.paged_parts import page_specs
from r1jax.models.transformer import Model
from r1jax.rollout.engine import MAX_STOP_IDS, _prompts_at_once, make_engine
from r1jax.rollout.pages import PagedRows
from r1jax.rollout.rows import Rows
from r1jax.rollout.weight_sync import (
    FIRST_DEVICE,
    make_reshard,
    make_rollout_mesh,
    rollout_dtype,
    rollout_shardings,
)
from r1jax.sharding import bytes_on_device, partition_spec
from r1jax.stages import reward_model, rl, supervised
from r1jax.stages.keys import rollout_axes
from r1jax.stages.policy import abstract_policy
from r1jax.stages.reward_scoring import abstract_head, make_score
from r1jax.training.offload import to_device

STAGES = ("rl", "supervised", "reward_model", "reject")
"""Stages with programs to plan; the others compute nothing on the mesh."""


@dataclasses.dataclass(frozen=True)
class Assumed:
    """What no config says."""

    mean_new_tokens: int = 8192
    """Tokens of a sampled response on average; R1-Zero's grow from 500 to 14,200 (R1 Fig. 1)."""
    mean_prompt_tokens: int = 256
    mean_document_tokens: int = 8192
    """Tokens of a conversation of SFT on average."""
    num_documents: int = 804_745
    """Of the SFT set, where the data is not there (R1 Table 5)."""


@dataclasses.dataclass(frozen=True)
class Program:
    """One jitted function with the arguments that the stage gives it."""

    name: str
    kind: str
    """Of what shape it is for the analytic count: "score", "zeros", "accumulate", "apply", "prefill", "decode", "reward"."""
    function: Any
    """Jitted."""
    arguments: tuple
    """Trees of ShapeDtypeStructs with shardings."""
    calls: float
    """A training step's (one update of the optimizer)."""
    sizes: Mapping[str, int]
    """By kind: rows and length of tokens, and the mean length of a segment; prompts, length and samples; rows, slots, steps."""
    static: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Keyword arguments that are no arrays."""
    resident: Any = ()
    """Arrays that lie in memory meanwhile and are no argument."""
    dynamic_trips: tuple[int, ...] = ()
    """Turns of the loops that the compiled text does not tell: see ``collective_bytes``."""

    @property
    def mesh(self) -> Mesh:
        """That its arguments lie on."""
        return jax.tree.leaves(self.arguments)[0].sharding.mesh


@dataclasses.dataclass(frozen=True)
class StagePrograms:
    """All programs of a stage and what they work on."""

    stage: str
    model: Any
    mesh: Mesh
    """Of the train layout."""
    state: Any
    """The train state, abstract; weights alone where the stage trains nothing."""
    programs: tuple[Program, ...]
    tokens_per_step: float
    """Tokens that a training step learns from."""
    num_steps: int
    """Of the whole stage."""


def stage_programs(config: ConfigDict, mesh: Mesh, *, assumed: Assumed | None = None) -> StagePrograms:
    """The programs of one stage's config on ``mesh``. Raises ValueError for a stage that has none, or as ``build`` does."""
    makers = {"rl": _rl, "supervised": _supervised, "reward_model": _reward_model, "reject": _reject}
    if config.stage not in makers:
        raise ValueError(f"stage {config.stage!r} has no programs to plan; those with some are {', '.join(makers)}")
    return makers[config.stage](config, mesh, assumed or Assumed())


def _rl(config: ConfigDict, mesh: Mesh, assumed: Assumed) -> StagePrograms:
    model, params, buffers = abstract_policy(config.init.to_dict(), mesh=mesh)
    state, update, score = rl.build(config, model, params, buffers)
    rows, length = config.rows_per_microbatch, config.row_length
    sequences = config.questions_per_phase * config.group_size // config.updates_per_phase
    tokens = sequences * (assumed.mean_prompt_tokens + assumed.mean_new_tokens)
    num_microbatches = math.ceil(tokens / length / rows)
    fields = {"int32": ("tokens", "targets", "segment_ids", "positions"), "float32": ("mask", "advantage", "sampler_logp")}
    scalars = ("temperature", "num_sequences", "num_segments", "num_tokens")
    batch = _batch(fields, scalars, rows=rows, length=length, mesh=mesh)
    logps = {"old_logp", "ref_logp"} if "reference" in state else {"old_logp"}
    learned = batch | dict.fromkeys(logps, batch["mask"])
    segment = min(assumed.mean_prompt_tokens + assumed.mean_new_tokens, length)
    sizes = {"rows": rows, "length": length, "segment": segment}
    weights = (state["params"], state["buffers"])
    programs = [
        *_sampling(
            config,
            model,
            state,
            mesh,
            num_prompts=config.questions_per_phase,
            num_samples=config.group_size,
            max_new_tokens=max(tokens for _, tokens in config.max_new_tokens),
            steps=config.updates_per_phase,
        ),
        Program(
            "old log-probs",
            "score",
            score,
            (*weights, batch),
            calls=num_microbatches,
            sizes=sizes,
            resident=_without(state, "params", "buffers"),
        ),
    ]
    if "reference" in state:
        fetched = to_device(state["reference"])
        reference = (fetched["params"], fetched["buffers"])
        arguments, resident = (*reference, batch), _without(state, "reference")
        programs.append(
            Program("reference log-probs", "score", score, arguments, num_microbatches, sizes, resident=resident)
        )
    programs += _update(state, update, learned, mesh, calls=num_microbatches, sizes=sizes)
    programs += (judges := _reward_models(config, mesh, resident=state))
    # A reward model's weights stay where they are all the time.
    weights_of = {program.name: program.arguments[:2] for program in judges}
    programs = [
        dataclasses.replace(program, resident=program.resident | _without(weights_of, program.name))
        for program in programs
    ]
    return StagePrograms("rl", model, mesh, state, tuple(programs), tokens, config.num_updates)


def _supervised(config: ConfigDict, mesh: Mesh, assumed: Assumed) -> StagePrograms:
    model, params, buffers = abstract_policy(config.init.to_dict(), mesh=mesh)
    num_updates = _num_updates(config, assumed)
    state, update = supervised.build(config, model, params, buffers, num_updates=num_updates)
    rows, length = config.rows_per_microbatch, config.row_length
    fields = {"int32": ("tokens", "targets", "segment_ids", "positions"), "float32": ("mask",)}
    scalars = ("num_sequences", "num_segments", "num_tokens")
    batch = _batch(fields, scalars, rows=rows, length=length, mesh=mesh)
    tokens = config.documents_per_update * min(assumed.mean_document_tokens, length)
    calls = math.ceil(tokens / length / rows)
    sizes = {"rows": rows, "length": length, "segment": min(assumed.mean_document_tokens, length)}
    programs = _update(state, update, batch, mesh, calls=calls, sizes=sizes)
    return StagePrograms("supervised", model, mesh, state, tuple(programs), tokens, num_updates)


def _reward_model(config: ConfigDict, mesh: Mesh, assumed: Assumed) -> StagePrograms:
    model, params, buffers = abstract_policy(config.init.to_dict(), mesh=mesh)
    params = params | abstract_head(model, mesh=mesh)
    state, update = reward_model.build(config, model, params, buffers, num_updates=config.get("num_updates", 256))
    width = 2 if config.kind == "helpful" else 1
    examples = config.examples_per_microbatch
    rows, length = examples * width, config.max_tokens
    batch = _batch({"int32": ("tokens",)}, (), rows=rows, length=length, mesh=mesh)
    batch["lengths"] = _placed((rows,), jnp.int32, ("batch",), mesh)
    for name, dtype in (("labels", jnp.float32), ("weights", jnp.float32), ("places", jnp.int32)):
        batch[name] = _placed((examples,), dtype, ("batch",), mesh)
    per_update = config.get("examples_per_update", 256)
    sizes = {"rows": rows, "length": length}
    programs = _update(state, update, batch, mesh, calls=math.ceil(per_update / examples), sizes=sizes)
    return StagePrograms(
        "reward_model", model, mesh, state, tuple(programs), per_update * width * min(length, 2048), 256
    )


def _reject(config: ConfigDict, mesh: Mesh, assumed: Assumed) -> StagePrograms:
    model, params, buffers = abstract_policy(config.init.to_dict(), mesh=mesh)
    num_prompts, num_samples = config.prompts_per_batch, config.samples_per_prompt
    params, buffers = _for_sampling(model, {"params": params, "buffers": buffers}, mesh)
    state = {"params": params, "buffers": buffers}
    programs = _sampling(
        config,
        model,
        state,
        mesh,
        num_prompts=num_prompts,
        num_samples=num_samples,
        max_new_tokens=config.max_new_tokens,
        steps=1,
    )
    tokens = num_prompts * num_samples * assumed.mean_new_tokens
    num_steps = math.ceil(config.num_prompts / num_prompts)
    return StagePrograms("reject", model, mesh, state, tuple(programs), tokens, num_steps)


def _update(state, update, batch, mesh: Mesh, *, calls: float, sizes) -> list[Program]:
    """zeros, accumulate and apply of a train state."""
    given = {name: state[name] for name in ("step", "params", "opt_state", "buffers")}
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        grads, sums = jax.eval_shape(update.zeros, batch)
    grads = jax.tree.map(_laid_as, grads, state["params"])
    sums = _whole(sums, mesh)
    counts = sums.get("expert_counts")
    others = _without(state, "params", "buffers")
    return [
        Program("zeros", "zeros", update.zeros, (batch,), 1, sizes, resident=state),
        Program(
            "update",
            "accumulate",
            update.accumulate,
            (state["params"], state["buffers"], grads, sums, batch),
            calls=calls,
            sizes=sizes,
            resident=others,
        ),
        Program(
            "apply",
            "apply",
            jax.jit(update.apply, donate_argnums=0),
            (given, grads, counts),
            calls=1,
            sizes=sizes,
            resident=_without(state, *given),
        ),
    ]


def _for_sampling(model: Model, state, mesh: Mesh) -> tuple[Any, Any]:
    """(params, buffers) as ``weight_sync.to_rollout`` gives them."""
    shardings = rollout_shardings(model, mesh)
    params = jax.tree.map_with_path(
        lambda path, a, target: jax.ShapeDtypeStruct(a.shape, rollout_dtype(path, model), sharding=target),
        state["params"],
        shardings[0],
    )
    return params, jax.tree.map(_laid_as_sharding, state["buffers"], shardings[1])


def _lent(config, model: Model, state, mesh: Mesh, *, steps: int) -> tuple[Mesh, tuple, dict, list[Program]]:
    """(the sampler's mesh, its weights, what lies beside them, the program that makes them) as ``WeightSync.lend`` does."""
    axes = rollout_axes(config)
    if axes is None:
        return mesh, (state["params"], state["buffers"]), _without(state, "params", "buffers"), []
    if FIRST_DEVICE in axes:
        raise ValueError(
            f"rollout_mesh: {FIRST_DEVICE} gives the sampler a part of the machine to itself: plan the two parts as two configs"
        )
    rollout_mesh = make_rollout_mesh(axes, mesh)
    params, buffers = _for_sampling(model, state, rollout_mesh)
    # Array by array: that of the largest takes most.
    arrays = zip(jax.tree.leaves_with_path(state["params"]), jax.tree.leaves(params), strict=True)
    (path, source), target = max(arrays, key=lambda pair: pair[1].size)
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    function = make_reshard(target.sharding, target.dtype, is_stacked=path[0].key in ("dense", "moe", "mtp"))
    others = {"copy": [leaf for leaf in jax.tree.leaves(params) if leaf is not target]}
    reshard = Program(
        f"reshard ({name})",
        "reshard",
        function,
        (source,),
        calls=1 / steps,
        sizes={"output_bytes": bytes_on_device(target)},
        resident=state | {"params": [leaf for leaf in jax.tree.leaves(state["params"]) if leaf is not source]} | others,
    )
    return rollout_mesh, (params, buffers), dict(state), [reshard]


def _sampling(
    config, model: Model, state, mesh: Mesh, *, num_prompts: int, num_samples: int, max_new_tokens: int, steps: int
) -> list[Program]:
    """Weights for the sampler, prefill of a phase's prompts, and a decode segment on the longest cache, which takes most."""
    mesh, weights, resident, programs = _lent(config, model, state, mesh, steps=steps)
    engine = make_engine(model, pad_id=0, **config.engine)
    prompt = -(-config.max_prompt_tokens // engine.prompt_bucket) * engine.prompt_bucket
    at_once = _prompts_at_once(num_prompts, num_samples, engine.max_rows)
    num_batches, num_segments = -(-num_prompts // at_once), -(-max_new_tokens // engine.segment)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        rows = engine._rows(at_once, prompt, num_samples=num_samples, max_new_tokens=max_new_tokens)
    batch = rows.lay_out([[0]] * at_once, pad_id=0) | {"first_row": np.int32(0)}

    def settings():
        return {
            "temperature": jnp.float32(1.0),
            "top_p": None if config.get("top_p") is None else jnp.float32(1.0),
            "stop_ids": jnp.zeros((MAX_STOP_IDS,), jnp.int32),
            "budget": jnp.int32(0),
            "key": jax.random.key(0),
        }

    decoded = decode_state(model, rows, batch, mesh=mesh, slots=prompt + num_segments * engine.segment)
    return [
        *programs,
        Program(
            "prefill",
            "prefill",
            engine._prefill,
            (*weights, _whole(jax.eval_shape(lambda: batch), mesh)),
            calls=num_batches / steps,
            sizes={"prompts": len(batch["tokens_PT"]), "length": prompt, "samples": rows.num_samples},
            static={"rows": rows},
            resident=resident,
        ),
        Program(
            "decode",
            "decode",
            engine._decode,
            (*weights, decoded, _whole(jax.eval_shape(settings), mesh)),
            calls=num_batches * num_segments / steps,
            sizes={
                "rows": at_once * num_samples,
                "slots": prompt + num_segments * engine.segment,
                "steps": engine.segment,
            },
            static={"steps": engine.segment},
            resident=resident,
            dynamic_trips=(engine.segment,),
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

    def placed(leaf):
        axes = ("batch",) + (None,) * (leaf.ndim - 1) if leaf.ndim and leaf.shape[0] == num_rows else (None,) * leaf.ndim
        spec = partition_spec(axes, leaf.shape, mesh, role="rollout")
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    def pool(layer):
        specs = page_specs(layer, rows.batch_axes, mesh) if isinstance(rows, PagedRows) else {}
        return {name: _laid_as_sharding(a, NamedSharding(mesh, specs[name])) for name, a in layer.items()}

    state = jax.eval_shape(made)
    if not isinstance(rows, PagedRows):
        return jax.tree.map(placed, state)
    cache = state.pop("cache")
    layers = tuple(pool(layer) for layer in cache.layers)
    table_BI, lengths_B = placed(cache.page_table_BI), placed(cache.lengths_B)
    cache = dataclasses.replace(cache, layers=layers, page_table_BI=table_BI, lengths_B=lengths_B)
    return jax.tree.map(placed, state) | {"cache": cache}


def _reward_models(config: ConfigDict, mesh: Mesh, *, resident) -> list[Program]:
    """A scoring pass of each reward model among the rewards, over whole rows."""
    programs = []
    for spec in config.rewards:
        if spec.get("kind") != "reward_model":
            continue
        model, params, buffers = abstract_policy(spec["init"], mesh=mesh)
        params = params | abstract_head(model, mesh=mesh)
        rows, length = config.group_size, config.row_length
        tokens = _placed((rows, length), jnp.int32, ("batch", None), mesh)
        arguments = (params, buffers, tokens, _placed((rows,), jnp.int32, ("batch",), mesh))
        programs.append(
            Program(
                f"reward model {spec['name']}",
                "reward",
                make_score(model),
                arguments,
                calls=config.questions_per_phase / config.updates_per_phase,
                sizes={"rows": rows, "length": length},
                resident=resident,
            )
        )
    return programs


def _num_updates(config: ConfigDict, assumed: Assumed) -> int:
    if "num_updates" in config:
        return config.num_updates
    return math.ceil(config.num_epochs * assumed.num_documents / config.documents_per_update)


def _batch(fields, scalars, *, rows: int, length: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """A micro-batch as ``place_batch`` lays it out."""
    arrays = {
        name: _placed((rows, length), jnp.dtype(dtype), ("batch", None), mesh) for dtype in fields for name in fields[dtype]
    }
    return arrays | {name: _placed((), jnp.float32, (), mesh) for name in scalars}


def _placed(shape, dtype, axes, mesh: Mesh) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, partition_spec(axes, shape, mesh)))


def _whole(tree, mesh: Mesh):
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole), tree)


def _laid_as(shape, other) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=other.sharding)


def _laid_as_sharding(shape, sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def _without(state: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: tree for name, tree in state.items() if name not in names}
