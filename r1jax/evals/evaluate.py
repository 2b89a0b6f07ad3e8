"""Held-out evaluation of a policy: k samples a problem, pass@1, pass@k, cons@k with intervals over problems."""

import re
from collections.abc import Sequence

import jax

from r1jax.evals.statistics import ProblemSamples, summarise
from r1jax.rollout.collect import Collector
from r1jax.rollout.types import Group
from r1jax.tasks.mixture import Mixture
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
    """(metrics of ``statistics.summarise`` with k = ``num_samples`` and "errors" of verifiers, the groups).

    ``problems_per_batch`` bounds memory and must divide the number of problems.
    """
    if len(problems) % problems_per_batch:
        raise ValueError(f"{len(problems)} evaluation problems are no multiple of {problems_per_batch} a batch")
    groups: list[Group] = []
    num_errors = 0
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
        num_errors += sum(collected.reward_errors.values())
    samples = [samples_of(group, collector.task) for group in groups]
    return summarise(samples, k=num_samples, prefix="") | {"errors": num_errors}, groups


def distinct_problems(task: Task, count: int, *, split: str) -> list[Problem]:
    """The first ``count`` problems of a split whose questions do not consist of the same words, numbers and signs.

    Raises ValueError for a task that has not as many (20 draws for each one asked for).
    """
    found: dict[tuple[str, ...], Problem] = {}
    for index in range(20 * count):
        problem = task.problem(index, split=split)
        words = tuple(sorted(re.findall(r"\w+|[^\w\s,.]", problem.messages[-1]["content"])))
        found.setdefault(words, problem)
        if len(found) == count:
            return list(found.values())
    raise ValueError(f"task {task.name!r} has only about {len(found)} distinct {split} problems, {count} are asked for")


def samples_of(group: Group, task: Task) -> ProblemSamples:
    """A group as the statistics see it; answers in the canonical form of the problem's own task."""
    own = task.task_of(group.problem) if isinstance(task, Mixture) else task
    rollouts = group.rollouts
    return ProblemSamples(
        answers=tuple(None if r.answer is None else own.canonical(r.answer) for r in rollouts),
        correct=tuple(r.is_correct for r in rollouts),
        num_tokens=tuple(len(r.completion.token_ids) for r in rollouts),
        well_formed=tuple(r.completion.stop_reason == "stop" and parse(r.text).well_formed for r in rollouts),
    )
