"""What the RL stage writes down: metrics of a phase under TRL's names, and a row for every completion."""

import functools
from collections.abc import Sequence

import numpy as np

from r1jax.objectives.sums import add_metrics, mean_metrics
from r1jax.rewards.language import chinese_share, is_mixed
from r1jax.rewards.reflection import count_reflections
from r1jax.rollout.types import Group


def rollout_metrics(groups: Sequence[Group], *, seconds: dict[str, float]) -> dict[str, float]:
    """Rewards, lengths, language and reflection of one phase's rollouts; ``seconds`` become time/... and rates."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    lengths = np.array([len(r.completion.token_ids) for r in rollouts])
    is_clipped = np.array([r.completion.stop_reason == "length" for r in rollouts])
    reflections = np.array([sum(count_reflections(r.text).values()) for r in rollouts])
    shares = [share for r in rollouts if (share := chinese_share(r.text)) is not None]
    row = {
        "reward": float(np.mean([r.reward for r in rollouts])),
        "reward_std": float(np.mean([np.std([r.reward for r in group.rollouts]) for group in groups])),
        "correct": float(np.mean([r.is_correct for r in rollouts])),
        "completions/mean_length": float(lengths.mean()),
        "completions/median_length": float(np.median(lengths)),
        "completions/min_length": int(lengths.min()),
        "completions/max_length": int(lengths.max()),
        "completions/clipped_ratio": float(is_clipped.mean()),
        "reflection/per_1k_tokens": 1000 * float(reflections.sum() / lengths.sum()),
        "reflection/per_completion": float(reflections.mean()),
        "language/chinese_share": float(np.mean(shares)) if shares else 0.0,
        "language/mixed_share": float(np.mean([is_mixed(r.text) for r in rollouts])),
    }
    if not is_clipped.all():
        row["completions/mean_terminated_length"] = float(lengths[~is_clipped].mean())
    for name in rollouts[0].rewards:
        values = np.array([r.rewards[name] for r in rollouts])
        if not np.isnan(values).all():
            row |= {f"rewards/{name}/mean": float(np.nanmean(values)), f"rewards/{name}/std": float(np.nanstd(values))}
    num_tokens = int(lengths.sum())
    row |= {f"time/{name}": value for name, value in seconds.items()}
    row["tokens_per_second/generate"] = num_tokens / seconds["generate"]
    row["tokens_per_second/train"] = num_tokens / (seconds["logprobs"] + seconds["update"])
    row["tokens_per_second/step"] = num_tokens / seconds["step"]
    return row


def update_metrics(totals: Sequence[dict], infos: Sequence[dict]) -> dict[str, float]:
    """Means over the tokens of a phase's updates, and over its updates of what ``apply`` reports."""
    row = {name: float(value) for name, value in mean_metrics(functools.reduce(add_metrics, totals)).items()}
    row["loss"] /= len(totals)
    row |= {name: float(np.mean([float(info[name]) for info in infos])) for name in infos[0]}
    if "load_max_over_mean" in row:
        row["moe/load_max_over_mean"] = row.pop("load_max_over_mean")
    return row


def completion_rows(groups: Sequence[Group], advantages_PG=None) -> list[dict]:
    """One JSON-able dict a completion; NaN (a reward that does not apply) becomes None."""
    rows = []
    for place, group in enumerate(groups):
        for sample, rollout in enumerate(group.rollouts):
            rewards = {name: None if np.isnan(value) else value for name, value in rollout.rewards.items()}
            rows.append(
                {
                    "problem": group.problem.columns | {"answer": group.problem.answer},
                    "prompt": group.problem.messages[-1]["content"],
                    "completion": rollout.text,
                    "num_tokens": len(rollout.completion.token_ids),
                    "stop_reason": rollout.completion.stop_reason,
                    "rewards": rewards,
                    "reward": rollout.reward,
                    "advantage": None if advantages_PG is None else float(advantages_PG[place, sample]),
                    "answer": rollout.answer,
                    "correct": bool(rollout.is_correct),
                    "policy_version": rollout.policy_version,
                }
            )
    return rows
