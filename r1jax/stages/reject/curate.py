"""What becomes of sampled answers: filtered, judged, rewritten and checked again; each one is kept or has a reason.

The steps, in order (R1 v2 Sec. B.3.2, B.3.3): the filters; equal answers to one prompt; the judge; no more than
``keep_per_prompt`` answers of a prompt, the first ones; the rewriter; and of what it wrote, form and answer once more.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1jax.data.shards import DUPLICATE
from r1jax.policies.chat import check_answered
from r1jax.rollout.records import Group, Rollout
from r1jax.specs.functions import last_line, load_function
from r1jax.specs.rewards import FilterSpec
from r1jax.tasks.problem import GradingError, Problem, Task
from r1jax.text.response import final_answer, parse
from r1jax.text.sample import Chat, ChatError, Rejection, Sample, r1_text


@dataclasses.dataclass(frozen=True)
class Step:
    """A filter, the judge or the rewriter of a config: its spec, the function that this names, the model that it asks."""

    spec: FilterSpec
    function: Callable[..., Any]
    chat: Chat | None = None

    def is_for(self, sample: Sample) -> bool:
        """Whether the sample's task is one of its tasks."""
        return self.spec.tasks is None or sample.columns.get("task") in self.spec.tasks


@dataclasses.dataclass
class Fate:
    """One sample on its way: the conversation's last message as it will be, or why there is none."""

    sample: Sample
    problem: Problem
    place: tuple[int, int]  # prompt, sample
    reason: str | None = None
    message: str = ""  # more about the reason
    content: str | None = None
    verdict: Mapping[str, str] | None = None  # the judge's

    def reject(self, error: str | Exception, step: str = "") -> None:
        """Gives the reason, of few words; the rest of an exception is its message."""
        self.content = None
        if isinstance(error, Exception):
            self.reason = str(error) if isinstance(error, Rejection) else f"{step}: {type(error).__name__}"
            self.message = "" if isinstance(error, Rejection) else last_line(error)
        else:
            self.reason = error


def make_step(spec: FilterSpec, *, chat: Chat | None = None) -> Step:
    """The step of a spec. Raises ValueError for a function that cannot be loaded."""
    return Step(spec, load_function(spec.function), chat)


def fates_of(groups: Sequence[Group], prompts: Sequence[int], *, style: str) -> list[Fate]:
    """The samples of groups, whose prompts have the given numbers, in order."""
    return [
        Fate(_sample(group.problem, rollout, style=style), group.problem, (prompt, number))
        for prompt, group in zip(prompts, groups, strict=True)
        for number, rollout in enumerate(group.rollouts)
    ]


def curate(
    fates: Sequence[Fate],
    *,
    filters: Sequence[Step],
    judge: Step | None,
    rewriter: Step | None,
    keep_per_prompt: int,
    task: Task,
    seed: int,
) -> None:
    """Gives every sample a content or a reason. One call of the judge and of the rewriter for all.

    Raises ChatError if a model that judges or rewrites fails on every one of at least two samples: it is not there.
    """
    for fate in fates:
        _filter(fate, filters)
    texts: set[tuple[int, str]] = set()
    for fate in _left(fates):
        key = fate.place[0], " ".join(fate.sample.text.split())
        if key in texts:
            fate.reject(DUPLICATE)
        texts.add(key)
    if judge is not None:
        asked = [fate for fate in _left(fates) if judge.is_for(fate.sample)]
        for fate, verdict in zip(asked, _results(judge, asked, seed=seed, name="judge"), strict=True):
            if isinstance(verdict, Exception):
                fate.reject(verdict, "judge")
                continue
            fate.verdict = verdict
            if verdict["correctness"] != "correct":
                fate.reject("judge: incorrect")
    kept: dict[int, int] = {}
    for fate in _left(fates):
        kept[fate.place[0]] = kept.get(fate.place[0], 0) + 1
        if kept[fate.place[0]] > keep_per_prompt:
            fate.reject("more than keep_per_prompt")
    for fate in _left(fates):
        fate.content = _as_it_is(fate.sample)
    if rewriter is not None:
        asked = [fate for fate in _left(fates) if rewriter.is_for(fate.sample)]
        for fate, text in zip(asked, _results(rewriter, asked, seed=seed, name="rewrite"), strict=True):
            if isinstance(text, Exception):
                fate.reject(text, "rewrite")
            else:
                fate.content = text
                _check_rewritten(fate, task)


def verdicts_of(fate: Fate, *, filters: Sequence[Step]) -> dict[str, Any]:
    """What was said of a sample that is kept, JSON-able."""
    rewards = fate.sample.rewards.items()
    return {
        "correct": fate.sample.is_correct,
        "filters": [step.spec.function for step in filters if step.is_for(fate.sample)],
        "rewards": {name: None if math.isnan(value) else value for name, value in rewards},
        "judge": None if fate.verdict is None else dict(fate.verdict),
    }


def _left(fates: Sequence[Fate]) -> list[Fate]:
    return [fate for fate in fates if fate.reason is None]


def _filter(fate: Fate, filters: Sequence[Step]) -> None:
    for step in filters:
        if not step.is_for(fate.sample):
            continue
        try:
            reason = step.function(fate.sample, **step.spec.options)
        except Exception as error:
            fate.reject(error, f"filter {step.spec.function}")
            return
        if reason is not None:
            fate.reject(reason)
            return


def _results(step: Step, fates: Sequence[Fate], *, seed: int, name: str) -> list[Any]:
    """What the judge or the rewriter returns: a result or an exception for each; a model that fails on all is an error."""
    if not fates:
        return []
    samples, function = [fate.sample for fate in fates], step.spec.function
    results = list(step.function(samples, chat=step.chat, seed=seed, **step.spec.options))
    if len(results) != len(fates):
        raise ValueError(f"{name} {function}: returned {len(results)} results for {len(fates)} samples")
    failures = [result for result in results if isinstance(result, ChatError)]
    check_answered(failures, num_asked=len(results), who=f"{name} {function}", what="samples")
    if failures:
        print(f"warning: {name}: {len(failures)} of {len(results)} failed: {failures[0]}", file=sys.stderr, flush=True)
    return results


def _check_rewritten(fate: Fate, task: Task) -> None:
    """Rejects what is not of the form of R1, or does not give the answer that was graded as right."""
    content = fate.content or ""
    if not parse(content, style="r1").well_formed:
        fate.reject("rewrite: ill-formed")
    elif fate.sample.is_correct:
        answer = final_answer(content, style="r1")
        try:
            is_correct = answer is not None and task.grade(answer, fate.problem) >= 1.0
        except GradingError as error:
            fate.reject(error, "rewrite")
            return
        if not is_correct:
            fate.reject("rewrite: another answer")
    if fate.reason is not None:
        fate.message = content


def _as_it_is(sample: Sample) -> str:
    """A sample as a message: of the style of R1 with both tags, else unchanged."""
    parts = sample.parts
    if sample.style == "r1" and parts.think is not None and parts.answer is not None:
        return r1_text(parts.think, parts.answer)
    return sample.text


def _sample(problem: Problem, rollout: Rollout, *, style: str) -> Sample:
    return Sample(
        messages=problem.messages,
        text=rollout.text,
        style=style,
        token_ids=rollout.completion.token_ids.tolist(),
        stop_reason=rollout.completion.stop_reason,
        answer=rollout.answer,
        is_correct=rollout.is_correct,
        reference=problem.answer,
        rewards=rollout.rewards,
        errors=rollout.errors,
        columns=problem.columns,
        problem_text=problem.question,
    )
