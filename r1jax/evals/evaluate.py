"""Held-out evaluation of a policy: k samples a problem, pass@1, pass@k, cons@k with intervals over problems."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import jax
import numpy as np

from r1jax.evals.statistics import ProblemSamples, summarise, with_interval
from r1jax.evals.votes import vote_classes
from r1jax.rollout.collect import Collected, Collector, has_grader, or_give_up
from r1jax.rollout.records import Group
from r1jax.specs.rollout import EvalSpec
from r1jax.tasks.problem import Problem, Task
from r1jax.text.chat import response_form
from r1jax.text.response import parse


@or_give_up()
def evaluate(
    collector: Collector,
    params,
    buffers,
    problems: Sequence[Problem],
    *,
    key: jax.Array,
    problems_per_batch: int,
    before_batch: Callable[[int], None] = lambda problems_done: None,
    **settings,
) -> tuple[dict[str, float], list[Group]]:
    """(metrics, groups). Metrics: those of ``statistics.summarise`` with k samples, "clipped_ratio",
    ``reward_metrics``.

    "votes/undecided" counts comparisons of answers that failed or took too long, where there are some: in a vote such
    answers count as different. Where no problem can be graded (own files without answers), pass@k and votes would say
    nothing: they are left out. ``problems_per_batch`` bounds memory; the last batch may be smaller. ``before_batch`` is
    called before each batch; by raising it ends the evaluation. The settings are those of ``Collector.collect``.
    """
    collected: list[Collected] = []
    started: list[Callable[[], Collected]] = []  # the batch before is scored while this one is sampled
    for start in range(0, len(problems), problems_per_batch):
        before_batch(start)
        batch = problems[start : start + problems_per_batch]
        started.append(collector.start(params, buffers, batch, key=jax.random.fold_in(key, start), **settings))
        if len(started) > 1:
            collected.append(started.pop(0)())
    collected += [finish() for finish in started]
    groups = [group for batch in collected for group in batch.groups]
    style, _ = response_form(collector.template, collector.tokenizer)
    samples = [samples_of(group, collector.task, style=style) for group in groups]
    undecided = sum(votes_of(group, collector.task)[1] for group in groups)
    is_clipped = [r.completion.stop_reason == "length" for group in groups for r in group.rollouts]
    metrics = summarise(samples, k=len(groups[0].rollouts)) | {"clipped_ratio": sum(is_clipped) / len(is_clipped)}
    if not any(has_grader(collector.task, problem) for problem in problems):
        metrics = {name: value for name, value in metrics.items() if not name.startswith(("pass@", "cons@"))}
    metrics |= reward_metrics(groups)
    counts = Counter({"votes/undecided": undecided} if undecided else {})
    for batch in collected:
        counts.update({name: count for name, count in batch.counts.items() if not name.endswith("/seconds")})
    return metrics | counts, groups


def reward_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """The mean of each reward with its 95 % interval over problems, and "reward", that of the weighted sum.

    A reward is left out where it applies to none of the problems.
    """
    metrics: dict[str, float] = {}
    values = {f"rewards/{name}/mean": name for name in groups[0].rollouts[0].rewards} | {"reward": None}
    for key, name in values.items():
        rewards_PG = [
            [rollout.reward if name is None else rollout.rewards[name] for rollout in group.rollouts]
            for group in groups
        ]
        of_problems = [float(np.nanmean(rewards)) for rewards in rewards_PG if not np.isnan(rewards).all()]
        metrics |= with_interval(key, of_problems) if of_problems else {}
    return metrics


def distinct_problems(task: Task, count: int, *, split: str, at_least: int | None = None) -> list[Problem]:
    """The first ``count`` problems of a split whose questions do not consist of the same words, numbers and signs.

    With ``at_least`` a task that has fewer gives all of them. Looks at all problems of a task that says how many there
    are (``num_problems``), else at 20 for each one asked for, as long as there is a new one among 20,000.

    Raises ValueError for a task that has not ``count``, or not ``at_least``.
    """
    num_problems = getattr(task, "num_problems", None)
    problems: dict[tuple[str, ...], Problem] = {}
    newest = 0
    for index in range(20 * count if num_problems is None else max(num_problems(split), 1)):
        problem = task.problem(index, split=split)
        words = tuple(sorted(re.findall(r"\w+|[^\w\s,.]", problem.messages[-1]["content"])))
        if words not in problems:
            problems[words], newest = problem, index
        if len(problems) == count or (num_problems is None and index - newest >= 20_000):
            break
    needed = count if at_least is None else at_least
    if len(problems) < needed:
        about = "about " if num_problems is None else ""
        raise ValueError(
            f"task {task.name!r} has only {about}{len(problems)} distinct {split} problems, {needed} are asked for"
        )
    return list(problems.values())


MOST_PROBLEMS = 64
"""Of an evaluation along the way, and of the first and last, where the spec does not say; at most what is held out."""


def heldout_problems(task: Task, spec: EvalSpec) -> list[Problem]:
    """The problems of the first and the last evaluation. Raises ValueError, naming the key, where fewer are held out."""
    key, count, at_least = "final_problems", spec.final_problems, None
    if count is None:
        key, count, at_least = "problems", MOST_PROBLEMS, spec.problems or 1
    try:
        return distinct_problems(task, count, split="heldout", at_least=at_least)
    except ValueError as error:
        raise ValueError(f"eval.{key}={getattr(spec, key)}: {error}") from error


def samples_of(group: Group, task: Task, *, style: str = "r1_zero") -> ProblemSamples:
    """A group as the statistics see it: equivalent answers as one text (``votes.vote_classes``), texts of a style."""
    rollouts = group.rollouts
    return ProblemSamples(
        answers=votes_of(group, task)[0],
        correct=tuple(r.is_correct for r in rollouts),
        num_tokens=tuple(len(r.completion.token_ids) for r in rollouts),
        well_formed=tuple(
            r.completion.stop_reason == "stop" and parse(r.text, style=style).well_formed for r in rollouts
        ),
    )


def votes_of(group: Group, task: Task) -> tuple[tuple[str | None, ...], int]:
    """``votes.vote_classes`` of a group's answers."""
    return vote_classes([rollout.answer for rollout in group.rollouts], task, group.problem)
