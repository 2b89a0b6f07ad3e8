"""What an RL config must be before anything is computed: keys, sizes that fit each other, rewards and objective that run."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from r1jax.objectives.advantages import group_advantages
from r1jax.objectives.grpo import grpo_loss
from r1jax.objectives.weights import token_weights
from r1jax.policies.policy import check_init
from r1jax.policies.reward_model import stand_in_rewards
from r1jax.rewards.rubric import Rubric
from r1jax.rollout.collect import check_problems_of, reward_columns
from r1jax.rollout.records import Completion
from r1jax.rollout.weight_sync import make_rollout_mesh
from r1jax.sharding import make_mesh
from r1jax.stages.keys import (
    check_counts,
    check_engine,
    check_finite,
    check_keys,
    check_not_negative,
    check_sampling,
    offload_of,
    rollout_axes,
)
from r1jax.stages.rl.collect import AGGREGATIONS
from r1jax.stages.splits import check_same_split
from r1jax.tasks.mixture import Mixture
from r1jax.tasks.schedule import TaskSchedule, make_schedule
from r1jax.text.chat import check_template
from r1jax.training.offload import OPTIMIZER, REFERENCE, check_offload
from r1jax.training.optimizer import OPTIMIZER_KEYS, make_optimizer

COUNTS = frozenset(
    [
        "questions_per_phase",
        "group_size",
        "updates_per_phase",
        "num_updates",
        "max_prompt_tokens",
        "reference_every",
        "row_length",
        "rows_per_microbatch",
        "checkpoint_every",
        "keep_checkpoints",
    ]
)
EVAL_KEYS = frozenset(
    [
        "every",
        "problems",
        "samples",
        "final_problems",
        "final_samples",
        "problems_per_batch",
        "temperature",
        "top_p",
        "seed",
    ]
)
_NUM_CHECKED = 16
"""Problems of each task that are looked at before training."""
LOSS_OPTIONS = ("clip_low", "clip_high", "dual_clip", "kl_coef", "kl_estimator", "ratio_level", "importance_cap")
NOT_NEGATIVE = ("clip_low", "clip_high", "kl_coef", "bias_rate", "balance_weight")
KEYS = COUNTS.union(
    LOSS_OPTIONS,
    [
        "stage",
        "seed",
        "mesh",
        "init",
        "tasks",
        "template",
        "rewards",
        "temperature",
        "max_new_tokens",
        "max_refills",
        "engine",
        "advantage",
        "multi_objective_aggregation",
        "aggregation",
        "aggregation_constant",
        "mask_truncated",
        "optimizer",
        "bias_rate",
        "eval",
    ],
)


OPTIONAL = ("balance_weight", "rollout_mesh", "offload")


def check(config: ConfigDict) -> None:
    """Raises ValueError, naming the key, for a config that cannot train; reads files of problems, makes a few others."""
    check_keys(config, required=KEYS, optional=OPTIONAL, where="rl")
    check_keys(config.eval, required=EVAL_KEYS, where="rl: eval")
    check_keys(config.optimizer, required=("learning_rate",), optional=OPTIMIZER_KEYS, where="rl: optimizer")
    check_counts(config, COUNTS, where="rl")
    check_counts(config, ("max_refills", "seed"), where="rl", least=0)
    check_counts(config.eval, EVAL_KEYS - {"temperature", "top_p", "seed"}, where="rl: eval")
    check_counts(config.eval, ("seed",), where="rl: eval", least=0)
    samples = {"group_size": config.group_size}
    samples |= {f"eval.{name}": config.eval[name] for name in ("samples", "final_samples")}
    check_engine(config.engine, where="rl: engine", samples=samples)
    check_finite(config.to_dict(), where="rl")
    check_not_negative(config, NOT_NEGATIVE, where="rl")
    check_sampling(config, where="rl")
    check_sampling(config.eval, where="rl: eval")
    if config.group_size < 2:
        raise ValueError(f"group_size={config.group_size}: a group needs at least 2 outputs to compare")
    for name in ("questions_per_phase", "num_updates"):
        if config[name] % config.updates_per_phase:
            raise ValueError(f"{name}={config[name]} is no multiple of updates_per_phase={config.updates_per_phase}")
    for name in ("problems", "final_problems"):
        if config.eval[name] % config.eval.problems_per_batch:
            raise ValueError(f"eval.{name} is no multiple of problems_per_batch={config.eval.problems_per_batch}")
    if config.eval.problems > config.eval.final_problems:
        raise ValueError(f"eval.problems={config.eval.problems} exceeds final_problems={config.eval.final_problems}")
    for name, every in (("eval.every", config.eval.every), ("reference_every", config.reference_every)):
        if every % config.updates_per_phase:
            raise ValueError(f"{name}={every} is no multiple of updates_per_phase={config.updates_per_phase}")
    caps: list[tuple[Any, ...]] = [
        tuple(entry) if isinstance(entry, list | tuple) else (entry,) for entry in config.max_new_tokens
    ]
    if any(len(cap) != 2 or not all(type(number) is int for number in cap) for cap in caps):
        raise ValueError(f"max_new_tokens={caps}: entries must be pairs of whole numbers, (from_update, tokens)")
    if any(first % config.updates_per_phase for first, _ in caps):
        raise ValueError(
            f"max_new_tokens={caps}: starts must be multiples of updates_per_phase={config.updates_per_phase}"
        )
    if not caps or caps[0][0] != 0 or caps != sorted(caps) or min(tokens for _, tokens in caps) < 1:
        raise ValueError(f"max_new_tokens={caps}: entries (from_update, tokens), in order, the first from update 0")
    longest = max(tokens for _, tokens in caps)
    if config.max_prompt_tokens + longest > config.row_length + 1:
        raise ValueError(
            f"row_length={config.row_length} does not hold max_prompt_tokens={config.max_prompt_tokens} "
            f"and {longest} new tokens"
        )
    if config.multi_objective_aggregation not in AGGREGATIONS:
        raise ValueError(
            f"multi_objective_aggregation={config.multi_objective_aggregation!r}: must be one of {AGGREGATIONS}"
        )
    mesh = make_mesh(config.mesh)
    make_rollout_mesh(rollout_axes(config), mesh)
    parts = (OPTIMIZER, REFERENCE) if config.kl_coef else (OPTIMIZER,)  # without KL there is no reference
    check_offload(offload_of(config), parts, devices=mesh.local_devices, where="rl")
    make_optimizer(total_steps=config.num_updates, **config.optimizer)
    check_init(config.init.to_dict())
    _check_rewards(config)
    check_same_split(config.init.to_dict(), config.tasks)
    _check_objective(config)


def _check_rewards(config: ConfigDict) -> None:
    """Lets the rewards score two dummy completions of a problem of each task, and asks for the columns of more.

    A reward that cannot be called, fails on all of them (no sandbox for code, say), returns too few scores, or needs a
    column that a problem lacks is named now. Of problems from files all are looked at.
    """
    rubric = Rubric(stand_in_rewards(config.rewards))
    if not any(rubric.weights.values()):
        raise ValueError(f"rewards: all weights are 0, so there is nothing to learn from: {', '.join(rubric.weights)}")
    schedule = make_schedule(config.tasks, seed=config.seed)
    task = schedule.everything
    parts = list(task.tasks.values()) if isinstance(task, Mixture) else [task]
    rubric.check_tasks(part.name for part in parts)
    _check_starts(config, rubric, schedule)
    dummy = Completion(np.zeros(1, np.int32), np.zeros(1, np.float32), "stop")
    for part in parts:
        for row in range(_NUM_CHECKED):
            problem = part.problem(row, split="train")
            columns = reward_columns(problem, [dummy] * 2, task=task)
            prompt = problem.messages[-1]["content"]
            try:
                rubric.check_columns(columns, task_name=part.name)
                if row == 0:
                    check_template(config.template, problem.messages)
                    scores = rubric.score([prompt] * 2, ["", "1"], columns)
                    if failing := [name for name, failed in scores.failed.items() if failed.all()]:
                        raise ValueError(
                            f"reward {failing[0]!r} fails on every answer: {scores.messages[0][failing[0]]}"
                        )
            except ValueError as error:
                where = problem.columns.get("row", f"task {part.name!r}, training problem {row}")
                raise ValueError(f"{where}: {error}") from error
    check_problems_of(task, rubric)


def _check_starts(config: ConfigDict, rubric: Rubric, schedule: TaskSchedule) -> None:
    """Whatever joins along the way does so at the start of a phase of the run, and every task has a reward when it does."""
    starts = [(f"task {name!r}", start) for name, start in schedule.starts.items()]
    starts += [(f"reward {name!r}", start) for name, start in rubric.starts.items()]
    for what, start in starts:
        if start % config.updates_per_phase:
            raise ValueError(
                f"{what}: from_update={start} is no multiple of updates_per_phase={config.updates_per_phase}"
            )
        if start >= config.num_updates:
            raise ValueError(f"{what}: from_update={start} is never reached with num_updates={config.num_updates}")
    for name, start in schedule.starts.items():
        if not rubric.at(start).applies_to(name):
            raise ValueError(f"task {name!r}: no reward with a weight applies to it when it joins, from_update={start}")


def _check_objective(config: ConfigDict) -> None:
    """Lets the objective itself judge its options, on one token: it names the one that it does not know."""
    ones = jnp.ones((1, 1))
    options: dict[str, Any] = {name: config[name] for name in LOSS_OPTIONS}
    group_advantages(jnp.array([[0.0, 1.0]]), normalization=config.advantage)
    weight_BT = token_weights(
        ones,
        ones.astype(jnp.int32),
        aggregation=config.aggregation,
        num_sequences=1,
        num_tokens=1,
        constant=config.aggregation_constant,
    )
    grpo_loss(
        ones,
        old_logp_BT=ones,
        advantage_BT=ones,
        weight_BT=weight_BT,
        segment_ids_BT=ones.astype(jnp.int32),
        ref_logp_BT=ones,
        sampler_logp_BT=ones,
        **options,
    )
