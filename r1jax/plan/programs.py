"""The programs that a stage runs, as jitted functions with abstract arguments on a mesh that need not be here.

They are the stage's own: ``build`` of ``r1jax.stages`` gives update and log-probs, ``Engine`` prefill and decode. What only a
run can know is assumed, and said: how long responses are on average (``Assumed``).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from r1jax.models.config import ModelConfig
from r1jax.plan.program import Program
from r1jax.plan.sampling import for_sampling, sampling_programs
from r1jax.plan.shapes import laid_as, placed, whole, without
from r1jax.policies.policy import abstract_policy, config_of
from r1jax.policies.reward_model import abstract_head, make_score
from r1jax.specs.policy import Init, StageInit
from r1jax.specs.rewards import ModelReward
from r1jax.specs.stages import EvaluateSpec, RejectSpec, RewardModelSpec, RlSpec, SupervisedSpec
from r1jax.stages import reward_model, supervised
from r1jax.stages.rl import stage as rl
from r1jax.training.offload import to_device

STAGES = ("rl", "supervised", "reward_model", "reject", "evaluate")
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
    num_helpful: int = 66_000
    num_safety: int = 106_000
    """Examples of the reward models, where the data is not there (spec B.7)."""
    mean_reward_tokens: int = 2048
    """Tokens of a prompt with the answer that is judged, on average."""


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


ModelOf = Callable[[Init], ModelConfig]
"""The model of what a stage starts from, whose weights need not be there."""


def stage_programs(
    spec: Any, mesh: Mesh, *, model_of: ModelOf = config_of, assumed: Assumed | None = None
) -> StagePrograms:
    """The programs of one stage on ``mesh``. Raises ValueError for a stage that has none, or as ``build`` does."""
    makers = {
        "rl": _rl,
        "supervised": _supervised,
        "reward_model": _reward_model,
        "reject": _reject,
        "evaluate": _evaluate,
    }
    if spec.stage not in makers:
        raise ValueError(f"stage {spec.stage!r} has no programs to plan; those with some are {', '.join(makers)}")
    return makers[spec.stage](spec, mesh, model_of, assumed or Assumed())


def _rl(spec: RlSpec, mesh: Mesh, model_of: ModelOf, assumed: Assumed) -> StagePrograms:
    model, params, buffers = abstract_policy(model_of(spec.init), mesh=mesh)
    state, update, score = rl.build(spec, model, params, buffers)
    rows, length = spec.rows_per_microbatch, spec.tokens_per_row
    sequences = spec.questions_per_phase * spec.group_size // spec.updates_per_phase
    tokens = sequences * (assumed.mean_prompt_tokens + assumed.mean_new_tokens)
    num_microbatches = math.ceil(tokens / length / rows)
    fields = {
        "int32": ("tokens", "targets", "segment_ids", "positions"),
        "float32": ("mask", "advantage", "sampler_logp"),
    }
    scalars = ("temperature", "num_sequences", "num_segments", "num_tokens")
    batch = _batch(fields, scalars, rows=rows, length=length, mesh=mesh)
    logps = {"old_logp", "ref_logp"} if "reference" in state else {"old_logp"}
    learned = batch | dict.fromkeys(logps, batch["mask"])
    segment = min(assumed.mean_prompt_tokens + assumed.mean_new_tokens, length)
    sizes = {"rows": rows, "length": length, "segment": segment}
    weights = (state["params"], state["buffers"])
    programs = [
        *sampling_programs(
            spec,
            model,
            state,
            mesh,
            rollout_mesh=spec.rollout_mesh,
            num_prompts=spec.questions_per_phase,
            num_samples=spec.group_size,
            max_new_tokens=spec.longest - spec.max_prompt_tokens,
            mean_new_tokens=assumed.mean_new_tokens,
            steps=spec.updates_per_phase,
        ),
        Program(
            "old log-probs",
            "score",
            score,
            (*weights, batch),
            calls=num_microbatches,
            sizes=sizes,
            resident=without(state, "params", "buffers"),
        ),
    ]
    if "reference" in state:
        fetched = to_device(state["reference"])
        reference = (fetched["params"], fetched["buffers"])
        arguments, resident = (*reference, batch), without(state, "reference")
        programs.append(
            Program("reference log-probs", "score", score, arguments, num_microbatches, sizes, resident=resident)
        )
    programs += _update(state, update, learned, mesh, calls=num_microbatches, sizes=sizes)
    programs += (judges := _reward_models(spec, mesh, model_of, resident=state))
    # A reward model's weights stay where they are all the time.
    weights_of = {program.name: program.arguments[:2] for program in judges}
    programs = [
        dataclasses.replace(program, resident=program.resident | without(weights_of, program.name))
        for program in programs
    ]
    return StagePrograms("rl", model, mesh, state, tuple(programs), tokens, spec.num_updates)


def _supervised(spec: SupervisedSpec, mesh: Mesh, model_of: ModelOf, assumed: Assumed) -> StagePrograms:
    model, params, buffers = abstract_policy(model_of(spec.init), mesh=mesh)
    num_updates = _num_updates(spec, assumed)
    state, update = supervised.build(spec, model, params, buffers, num_updates=num_updates)
    rows, length = spec.rows_per_microbatch, spec.row_length
    fields = {"int32": ("tokens", "targets", "segment_ids", "positions"), "float32": ("mask",)}
    scalars = ("num_sequences", "num_segments", "num_tokens")
    batch = _batch(fields, scalars, rows=rows, length=length, mesh=mesh)
    tokens = spec.documents_per_update * min(assumed.mean_document_tokens, length)
    calls = math.ceil(tokens / length / rows)
    sizes = {"rows": rows, "length": length, "segment": min(assumed.mean_document_tokens, length)}
    programs = _update(state, update, batch, mesh, calls=calls, sizes=sizes)
    return StagePrograms("supervised", model, mesh, state, tuple(programs), tokens, num_updates)


def _reward_model(spec: RewardModelSpec, mesh: Mesh, model_of: ModelOf, assumed: Assumed) -> StagePrograms:
    model, params, buffers = abstract_policy(model_of(spec.init), mesh=mesh)
    params = params | abstract_head(model, mesh=mesh)
    width, num_examples = (2, assumed.num_helpful) if spec.kind == "helpful" else (1, assumed.num_safety)
    num_trained = spec.epochs * num_examples * (1 - spec.heldout_fraction)
    per_update = spec.examples_per_update
    num_updates = math.ceil(num_trained / per_update)
    state, update = reward_model.build(spec, model, params, buffers, num_updates=num_updates)
    examples = spec.examples_per_microbatch
    rows, length = examples * width, spec.max_tokens
    batch = _batch({"int32": ("tokens",)}, (), rows=rows, length=length, mesh=mesh)
    batch["lengths"] = placed((rows,), jnp.int32, ("batch",), mesh)
    for name, dtype in (("labels", jnp.float32), ("weights", jnp.float32), ("places", jnp.int32)):
        batch[name] = placed((examples,), dtype, ("batch",), mesh)
    sizes = {"rows": rows, "length": length}
    calls = math.ceil(per_update / examples)
    programs = _update(state, update, batch, mesh, calls=calls, sizes=sizes)
    tokens = per_update * width * min(length, assumed.mean_reward_tokens)
    return StagePrograms("reward_model", model, mesh, state, tuple(programs), tokens, num_updates)


def _reject(spec: RejectSpec, mesh: Mesh, model_of: ModelOf, assumed: Assumed) -> StagePrograms:
    sizes = {"num_prompts": spec.prompts_per_batch, "num_samples": spec.samples_per_prompt}
    return _sampled(
        spec, mesh, model_of, assumed, num_steps=math.ceil(spec.num_prompts / spec.prompts_per_batch), **sizes
    )


def _evaluate(spec: EvaluateSpec, mesh: Mesh, model_of: ModelOf, assumed: Assumed) -> StagePrograms:
    sizes = {"num_prompts": min(spec.problems, spec.problems_per_batch), "num_samples": spec.samples}
    num_steps = len(spec.tasks) * math.ceil(spec.problems / spec.problems_per_batch)
    return _sampled(spec, mesh, model_of, assumed, num_steps=num_steps, **sizes)


def _sampled(
    spec: RejectSpec | EvaluateSpec, mesh: Mesh, model_of: ModelOf, assumed: Assumed, *, num_prompts: int, num_samples: int,
    num_steps: int,
) -> StagePrograms:  # fmt: skip
    """A stage that only samples."""
    model, params, buffers = abstract_policy(model_of(spec.init), mesh=mesh)
    params, buffers = for_sampling(model, {"params": params, "buffers": buffers}, mesh)
    state = {"params": params, "buffers": buffers}
    programs = sampling_programs(
        spec,
        model,
        state,
        mesh,
        num_prompts=num_prompts,
        num_samples=num_samples,
        max_new_tokens=spec.max_new_tokens,
        mean_new_tokens=assumed.mean_new_tokens,
        steps=1,
    )
    tokens = num_prompts * num_samples * assumed.mean_new_tokens
    return StagePrograms(spec.stage, model, mesh, state, tuple(programs), tokens, num_steps)


def _update(state, update, batch, mesh: Mesh, *, calls: float, sizes) -> list[Program]:
    """zeros, accumulate and apply of a train state."""
    given = {name: state[name] for name in ("step", "params", "opt_state", "buffers")}
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        grads, sums = jax.eval_shape(update.zeros, batch)
    grads = jax.tree.map(laid_as, grads, state["params"])
    sums = whole(sums, mesh)
    counts = sums.get("expert_counts")
    others = without(state, "params", "buffers")
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
            resident=without(state, *given),
        ),
    ]


def _reward_models(spec: RlSpec, mesh: Mesh, model_of: ModelOf, *, resident) -> list[Program]:
    """A scoring pass of each reward model among the rewards, over whole rows."""
    programs = []
    for reward in spec.rewards:
        if not isinstance(reward, ModelReward):
            continue
        model, params, buffers = abstract_policy(model_of(StageInit(path=reward.path)), mesh=mesh)
        params = params | abstract_head(model, mesh=mesh)
        rows, length = reward.rows_per_batch, spec.tokens_per_row
        tokens = placed((rows, length), jnp.int32, ("batch", None), mesh)
        arguments = (params, buffers, tokens, placed((rows,), jnp.int32, ("batch",), mesh))
        programs.append(
            Program(
                f"reward model {reward.name}",
                "reward",
                make_score(model),
                arguments,
                calls=spec.questions_per_phase * spec.group_size / rows / spec.updates_per_phase,
                sizes={"rows": rows, "length": length},
                resident=resident,
            )
        )
    return programs


def _num_updates(spec: SupervisedSpec, assumed: Assumed) -> int:
    if spec.num_updates is not None:
        return spec.num_updates
    return math.ceil((spec.num_epochs or 1) * assumed.num_documents / spec.documents_per_update)


def _batch(fields, scalars, *, rows: int, length: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """A micro-batch as ``place_batch`` lays it out."""
    arrays = {
        name: placed((rows, length), jnp.dtype(dtype), ("batch", None), mesh)
        for dtype in fields
        for name in fields[dtype]
    }
    return arrays | {name: placed((), jnp.float32, (), mesh) for name in scalars}
