"""The programs that a stage runs, as jitted functions with abstract arguments on a mesh that need not be here.

They are the stage's own: ``r1jax.stages`` gives update and log-probs, ``Engine`` prefill and decode. What only a run
can know is assumed (``Assumed``), such as the mean length of responses.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from r1jax.models.config import ModelConfig
from r1jax.models.transformer import Model
from r1jax.plan import budget
from r1jax.plan.assumed import Assumed
from r1jax.plan.program import Program, abstract_array, replicated, with_sharding, without
from r1jax.plan.sampling import phase_of, sampling_programs, sampling_weights
from r1jax.plan.schedule import Schedule
from r1jax.policies.policy import abstract_policy, config_of
from r1jax.policies.reward_model import abstract_head, make_reward_pass
from r1jax.specs.policy import AnyInit, StageInit
from r1jax.specs.rewards import ModelReward
from r1jax.specs.stages import EvaluateSpec, RejectSpec, RewardModelSpec, RlSpec, SupervisedSpec
from r1jax.stages import reward_model, supervised
from r1jax.stages.rl import stage as rl
from r1jax.stages.training import make_train_state
from r1jax.training.offload import to_device_memory


@dataclasses.dataclass(frozen=True)
class StagePrograms:
    """All programs of a stage and what they work on."""

    stage: str
    model: Model
    mesh: Mesh  # the trainer's
    state: Any  # the train state, abstract; weights alone where the stage trains nothing
    programs: tuple[Program, ...]
    tokens_per_step: float  # tokens that a training step learns from
    num_steps: int  # of the whole stage
    schedule: Schedule | None = None  # of a phase, where something is sampled
    is_overlapped: bool = False  # the sampler has devices of its own, and samples a phase while the trainer learns


ModelOf = Callable[[AnyInit], ModelConfig]
"""The model of what a stage starts from, whose weights need not be there."""
_Policy = tuple[Model, Any, Any]
"""A model with its abstract parameters and buffers."""
_TOKENS = ("tokens", "targets", "segment_ids", "positions")
_COUNTS = ("num_sequences", "num_segments", "num_tokens")
"""Of every micro-batch of packed rows."""
_Made = tuple[Any, Sequence[Program], float, int, Schedule | None]
"""The state, programs, tokens, steps and schedule of a ``StagePrograms``."""


class _Given(NamedTuple):
    """Arguments of ``stage_programs``."""

    model_of: ModelOf
    assumed: Assumed
    devices: Sequence[Any] | None


def stage_programs(
    spec: Any,
    mesh: Mesh,
    *,
    model_of: ModelOf = config_of,
    assumed: Assumed | None = None,
    devices: Sequence[Any] | None = None,
) -> StagePrograms:
    """The programs of one stage on ``mesh``, which is of some or all of ``devices``, by default ``jax.devices()``.

    Raises ValueError for a stage that has none and, with the key, for a mesh that does not divide the model or the
    rows.
    """
    if spec.stage not in WITH_PROGRAMS:
        raise ValueError(
            f"stage {spec.stage!r} has no programs to plan; those with some are {', '.join(WITH_PROGRAMS)}"
        )
    policy = abstract_policy(model_of(spec.init), mesh=mesh)
    made = _MAKERS[spec.stage](spec, policy, mesh, _Given(model_of, assumed or Assumed(), devices))
    state, programs, tokens, num_steps, schedule = made
    is_overlapped = getattr(spec, "overlap", False)
    model, programs = policy[0], tuple(programs)
    return StagePrograms(spec.stage, model, mesh, state, programs, tokens, num_steps, schedule, is_overlapped)


def _rl(spec: RlSpec, policy: _Policy, mesh: Mesh, given: _Given) -> _Made:
    rows, length = spec.rows_per_microbatch, spec.tokens_per_row
    _check_length("row_length" if spec.row_length else "max_prompt_tokens + max_new_tokens", length, mesh)
    state, update, score = rl.build(spec, *policy)
    assumed = given.assumed
    mean_tokens = assumed.mean_prompt_tokens + assumed.mean_new_tokens
    num_outputs = spec.questions_per_phase * spec.group_size // spec.updates_per_phase
    sharing = (length - assumed.mean_prompt_tokens) // assumed.mean_new_tokens  # a prompt in a row
    packed = assumed.mean_new_tokens + assumed.mean_prompt_tokens / max(1, min(sharing, spec.group_size))
    calls = math.ceil(num_outputs * packed / length / rows)
    floats, scalars = ("mask", "advantage", "sampler_logp"), ("temperature", "is_on_policy", *_COUNTS)
    batch = _batch(mesh, rows, length, ints=(*_TOKENS, "prefix_ids"), floats=floats, scalars=scalars)
    sizes = {"rows": rows, "length": length, "segment": min(mean_tokens, length)}
    programs, schedule = sampling_programs(spec, policy[0], state, mesh, assumed=assumed, devices=given.devices)
    scored = {}
    if spec.updates_per_phase > 1:  # the first update computes its own
        share = 1 - 1 / spec.updates_per_phase
        scored["old"] = (state, without(state, "params", "buffers"), share * calls)
    if "reference" in state:
        scored["reference"] = (to_device_memory(state["reference"]), without(state, "reference"), calls)
    for whose, (weights, resident, passes) in scored.items():
        arguments = (weights["params"], weights["buffers"], batch)
        programs.append(
            Program(f"{whose} log-probs", budget.plan_scoring, score, arguments, passes, sizes, resident=resident)
        )
    logps = {"old_logp": batch["mask"]} | ({"ref_logp": batch["mask"]} if "reference" in state else {})
    programs += _update(state, update, batch | logps, mesh, calls=calls, sizes=sizes)
    programs += (judges := _reward_models(spec, mesh, given.model_of, resident=state))
    # A reward model's weights are in memory all the time.
    weights_of = {program.name: program.arguments[:2] for program in judges}
    programs = [
        dataclasses.replace(program, resident=program.resident | without(weights_of, program.name))
        for program in programs
    ]
    return state, programs, num_outputs * mean_tokens, spec.num_updates, schedule


def _supervised(spec: SupervisedSpec, policy: _Policy, mesh: Mesh, given: _Given) -> _Made:
    rows, length = spec.rows_per_microbatch, spec.row_length
    _check_length("row_length", length, mesh)
    num_updates = spec.num_updates
    if num_updates is None:
        num_updates = math.ceil((spec.num_epochs or 1) * given.assumed.num_documents / spec.documents_per_update)
    model, params, buffers = policy
    loss_function = supervised.make_loss(model, spec)
    state, update = make_train_state(spec, loss_function, params, buffers, num_updates=num_updates)
    batch = _batch(mesh, rows, length, ints=_TOKENS, floats=("mask",), scalars=_COUNTS)
    segment = min(given.assumed.mean_document_tokens, length)
    tokens = spec.documents_per_update * segment
    sizes = {"rows": rows, "length": length, "segment": segment}
    programs = _update(state, update, batch, mesh, calls=math.ceil(tokens / length / rows), sizes=sizes)
    return state, programs, tokens, num_updates, None


def _reward_model(spec: RewardModelSpec, policy: _Policy, mesh: Mesh, given: _Given) -> _Made:
    _check_length("length_bucket", spec.length_bucket, mesh)
    model, params, buffers = policy
    params = params | abstract_head(model, mesh=mesh)
    width, num_examples = (2, given.assumed.num_helpful) if spec.kind == "helpful" else (1, given.assumed.num_safety)
    num_trained = spec.epochs * num_examples * (1 - spec.heldout_fraction)
    num_updates = math.ceil(num_trained / spec.examples_per_update)
    loss_function = reward_model.make_loss(model, spec)
    state, update = make_train_state(spec, loss_function, params, buffers, num_updates=num_updates)
    examples = spec.examples_per_microbatch
    rows, length = examples * width, math.ceil(spec.max_tokens / spec.length_bucket) * spec.length_bucket
    batch = _batch(mesh, rows, length, ints=("tokens",))
    batch["lengths"] = abstract_array((rows,), jnp.int32, ("batch",), mesh)
    for name, dtype in (("labels", jnp.float32), ("weights", jnp.float32), ("places", jnp.int32)):
        batch[name] = abstract_array((examples,), dtype, ("batch",), mesh)
    calls = math.ceil(spec.examples_per_update / examples)
    programs = _update(state, update, batch, mesh, calls=calls, sizes={"rows": rows, "length": length})
    tokens = spec.examples_per_update * width * min(length, given.assumed.mean_reward_tokens)
    return state, programs, tokens, num_updates, None


def _sampled(spec: RejectSpec | EvaluateSpec, policy: _Policy, mesh: Mesh, given: _Given) -> _Made:
    """Stages that only sample."""
    phase = phase_of(spec)
    if isinstance(spec, RejectSpec):
        num_steps = math.ceil(spec.num_prompts / phase.num_prompts)
    else:
        num_steps = len(spec.tasks) * math.ceil(spec.problems / spec.problems_per_batch)
    model, params, buffers = policy
    weights = sampling_weights(model, {"params": params, "buffers": buffers}, mesh)
    state = dict(zip(("params", "buffers"), weights, strict=True))
    programs, schedule = sampling_programs(spec, model, state, mesh, assumed=given.assumed, devices=given.devices)
    return state, programs, phase.num_sequences * given.assumed.mean_new_tokens, num_steps, schedule


def _update(state, update, batch, mesh: Mesh, *, calls: float, sizes: Mapping[str, int]) -> list[Program]:
    """zeros, accumulate and apply of a train state."""
    changed = {name: state[name] for name in ("step", "params", "opt_state", "buffers")}
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        grads, sums = jax.eval_shape(update.zeros, batch)
    grads = jax.tree.map(lambda grad, param: with_sharding(grad, param.sharding), grads, state["params"])
    sums = replicated(sums, mesh)
    accumulated = (state["params"], state["buffers"], grads, sums, batch)
    applied = (changed, grads, sums.get("expert_counts"))
    others, apply = without(state, "params", "buffers"), jax.jit(update.apply, donate_argnums=0)
    return [
        Program("zeros", budget.plan_zeros, update.zeros, (batch,), 1, sizes, resident=state),
        Program("update", budget.plan_accumulate, update.accumulate, accumulated, calls, sizes, resident=others),
        Program("apply", budget.plan_apply, apply, applied, 1, sizes, resident=without(state, *changed)),
    ]


def _reward_models(spec: RlSpec, mesh: Mesh, model_of: ModelOf, *, resident) -> list[Program]:
    """A scoring pass of each reward model among the rewards, over whole rows."""
    programs, count = [], functools.partial(budget.plan_scoring, has_head=False)
    for reward in spec.rewards:
        if isinstance(reward, ModelReward):
            model, params, buffers = abstract_policy(model_of(StageInit(path=reward.path)), mesh=mesh)
            rows, length = reward.rows_per_batch, spec.tokens_per_row
            tokens_BT = abstract_array((rows, length), jnp.int32, ("batch", None), mesh)
            lengths_B = abstract_array((rows,), jnp.int32, ("batch",), mesh)
            arguments = (params | abstract_head(model, mesh=mesh), buffers, tokens_BT, lengths_B)
            calls = spec.questions_per_phase * spec.group_size / rows / spec.updates_per_phase
            name, sizes = f"reward model {reward.name}", {"rows": rows, "length": length}
            programs.append(Program(name, count, make_reward_pass(model), arguments, calls, sizes, resident=resident))
    return programs


def _check_length(name: str, length: int, mesh: Mesh) -> None:
    """Raises ValueError, naming the key, where the mesh does not divide the tokens of a row."""
    if length % (parts := mesh.shape["sequence"]):
        raise ValueError(
            f"{name}={length}: mesh.sequence={parts} does not divide the tokens of a row; make them a multiple of {parts}"
        )


def _batch(mesh: Mesh, rows: int, length: int, *, ints=(), floats=(), scalars=()) -> dict[str, jax.ShapeDtypeStruct]:
    """A micro-batch as ``place_batch`` lays it out, by the names of its arrays."""
    types = dict.fromkeys(ints, jnp.int32) | dict.fromkeys(floats, jnp.float32)
    arrays = {name: abstract_array((rows, length), dtype, ("batch", None), mesh) for name, dtype in types.items()}
    return arrays | {name: abstract_array((), jnp.float32, (), mesh) for name in scalars}


_MAKERS: dict[str, Callable[..., _Made]] = {
    "rl": _rl,
    "supervised": _supervised,
    "reward_model": _reward_model,
    "reject": _sampled,
    "evaluate": _sampled,
}
WITH_PROGRAMS = tuple(_MAKERS)
"""Stages with programs to plan; the others compute nothing on the mesh."""
