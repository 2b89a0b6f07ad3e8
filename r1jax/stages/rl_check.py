"""What an RL config must be before anything is computed: keys, sizes that fit each other, rewards and objective that run."""

from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from r1jax.objectives.advantages import group_advantages
from r1jax.objectives.grpo import grpo_loss
from r1jax.objectives.weights import token_weights
from r1jax.rewards.rubric import Rubric
from r1jax.stages.keys import check_counts, check_keys
from r1jax.tasks.mixture import make_mixture
from r1jax.text.chat import render
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
    ["every", "problems", "samples", "final_problems", "final_samples", "problems_per_batch", "temperature", "seed"]
)
LOSS_OPTIONS = ("clip_low", "clip_high", "dual_clip", "kl_coef", "kl_estimator", "ratio_level", "importance_cap")
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
        "aggregation",
        "aggregation_constant",
        "mask_truncated",
        "optimizer",
        "bias_rate",
        "eval",
    ],
)


def check(config: ConfigDict) -> None:
    """Raises ValueError, naming the key, for a config that cannot train; costs a few problems."""
    check_keys(config, required=KEYS, where="rl")
    check_keys(config.eval, required=EVAL_KEYS, where="rl: eval")
    check_keys(config.engine, required=("prompt_bucket", "segment"), where="rl: engine")
    check_keys(config.optimizer, required=("learning_rate",), optional=OPTIMIZER_KEYS, where="rl: optimizer")
    check_counts(config, COUNTS, where="rl")
    check_counts(config, ("max_refills", "seed"), where="rl", least=0)
    check_counts(config.engine, ("prompt_bucket", "segment"), where="rl: engine")
    check_counts(config.eval, EVAL_KEYS - {"temperature", "seed"}, where="rl: eval")
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
    caps = [tuple(entry) for entry in config.max_new_tokens]
    if not caps or caps[0][0] != 0 or caps != sorted(caps) or min(tokens for _, tokens in caps) < 1:
        raise ValueError(f"max_new_tokens={caps}: entries (from_update, tokens), in order, the first from update 0")
    longest = max(tokens for _, tokens in caps)
    if config.max_prompt_tokens + longest > config.row_length + 1:
        raise ValueError(
            f"row_length={config.row_length} does not hold max_prompt_tokens={config.max_prompt_tokens} "
            f"and {longest} new tokens"
        )
    for name, temperature in (("temperature", config.temperature), ("eval.temperature", config.eval.temperature)):
        if not temperature > 0:
            raise ValueError(f"{name}={temperature}: must be positive")
    make_optimizer(total_steps=config.num_updates, **config.optimizer)
    _check_rewards(config)
    _check_objective(config)


def _check_rewards(config: ConfigDict) -> None:
    """Scores two dummy completions of one problem: a reward that cannot be called or returns too few is named now."""
    task = make_mixture(config.tasks, seed=config.seed)
    problem = task.problem(0, split="train")
    prompt = render(problem.messages, template=config.template)
    columns = problem.columns | {"problem": problem, "task": task, "answer": problem.answer}
    columns |= {"completion_ids": [0], "stop_reason": "stop"}
    Rubric(config.rewards).score([prompt] * 2, ["", "1"], {name: [value] * 2 for name, value in columns.items()})


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
