"""Held-out evaluation of a policy: k samples a problem, pass@1, pass@k, cons@k with intervals over problems."""

from collections.abc import Sequence

import jax
import numpy as np

from r1jax.evals.statistics import bootstrap_interval, cons_at_k, pass_at_k
from r1jax.rollout.collect import Collector
from r1jax.rollout.types import Group
from r1jax.tasks.types import Problem, Task
from r1jax.text.response import parse


def evaluate(
    collector: Collector,
    params,
    buffers,
    problems: Sequence[Problem],
    *,
    num_samples: int,
    max_new_tokens: int,
    temperature: float,
    key: jax.Array,
    policy_version: int,
    problems_per_batch: int,
    top_p: float | None = None,
) -> tuple[dict[str, float], list[Group]]:
    """(metrics of ``summarise``, the groups). ``problems_per_batch`` bounds memory, and must divide their number."""
    if len(problems) % problems_per_batch:
        raise ValueError(f"{len(problems)} evaluation problems are no multiple of {problems_per_batch} a batch")
    groups: list[Group] = []
    for start in range(0, len(problems), problems_per_batch):
        batch = problems[start : start + problems_per_batch]
        collected = collector.collect(
            params,
            buffers,
            batch,
            num_samples=num_samples,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            key=jax.random.fold_in(key, start),
            policy_version=policy_version,
        )
        groups += collected.groups
    return summarise(groups, collector.task), groups


def summarise(groups: Sequence[Group], task: Task) -> dict[str, float]:
    """pass@1 with its 95 % bootstrap interval over problems, and with k > 1 samples pass@k and cons@k; lengths; format.

    pass@1 is the mean over samples, then problems (R1v2 D.1); pass@k is unbiased; cons@k is the majority of canonical answers.
    """
    num_samples = len(groups[0].rollouts)
    pass_1 = np.array([np.mean([r.is_correct for r in group.rollouts]) for group in groups])
    metrics = {"pass@1": float(pass_1.mean())}
    metrics["pass@1_low"], metrics["pass@1_high"] = bootstrap_interval(pass_1, seed=0)
    if num_samples > 1:
        cons, best = [], []
        for group in groups:
            answers = [None if r.answer is None else _canonical(task, group.problem, r.answer) for r in group.rollouts]
            correct = [r.is_correct for r in group.rollouts]
            cons.append(cons_at_k(answers, correct, num_samples))
            best.append(pass_at_k(num_samples, sum(correct), num_samples))
        metrics[f"cons@{num_samples}"] = float(np.mean(cons))
        low, high = bootstrap_interval(np.array(cons), seed=0)
        metrics |= {f"cons@{num_samples}_low": low, f"cons@{num_samples}_high": high}
        metrics[f"pass@{num_samples}"] = float(np.mean(best))
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    metrics["mean_length"] = float(np.mean([len(r.completion.token_ids) for r in rollouts]))
    metrics["clipped_ratio"] = float(np.mean([r.completion.stop_reason == "length" for r in rollouts]))
    metrics["format"] = float(np.mean([parse(r.text).well_formed for r in rollouts]))
    return metrics


def _canonical(task: Task, problem: Problem, answer: str) -> str:
    own = task.task_of(problem) if hasattr(task, "task_of") else task
    return own.canonical(answer)
