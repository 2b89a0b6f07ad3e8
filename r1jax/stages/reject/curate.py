"""What becomes of sampled answers: filtered, judged, rewritten and checked again; each one is kept or has a reason.

The steps, in order (R1 v2 Sec. B.3.2, B.3.3): the filters; equal answers to one prompt; the judge; no more than
``keep_per_prompt`` answers of a prompt, the first ones; the rewriter; and of what it wrote, form and answer once more.
"""

import collections
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
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


def make_step(spec: FilterSpec, *, chat: Chat | None = None) -> Step:
    """The step of a spec. Raises ValueError for a function that cannot be loaded."""
    return Step(spec, load_function(spec.function), chat)


@dataclasses.dataclass(frozen=True)
class Steps:
    """The steps of a stage that a config names."""

    filters: Sequence[Step] = ()
    judge: Step | None = None
    rewriter: Step | None = None


@dataclasses.dataclass
class Fate:
    """One sample on its way: the conversation's last message as it will be, or why there is none."""

    sample: Sample
    problem: Problem
    prompt: int  # its number
    number: int  # of the sample among those of the prompt
    reason: str | None = None
    message: str = ""  # more about the reason
    content: str | None = None
    verdict: Mapping[str, str] | None = None  # the judge's

    def reject(self, error: str | Exception, step: str = "") -> None:
        """Gives the reason, of few words; the rest of an exception is its message."""
        self.content, self.reason = None, str(error)
        if isinstance(error, Exception) and not isinstance(error, Rejection):
            self.reason, self.message = f"{step}: {type(error).__name__}", last_line(error)

    def verdicts(self, filters: Sequence[Step]) -> dict[str, Any]:
        """What was said of a sample that is kept, JSON-able."""
        rewards = self.sample.rewards.items()
        return {
            "correct": self.sample.is_correct,
            "filters": [step.spec.function for step in filters if step.is_for(self.sample)],
            "rewards": {name: None if math.isnan(value) else value for name, value in rewards},
            "judge": None if self.verdict is None else dict(self.verdict),
        }


def fates_of(groups: Sequence[Group], prompts: Sequence[int], *, style: str) -> list[Fate]:
    """The samples of groups, whose prompts have the given numbers, in order."""
    return [
        Fate(_sample(group.problem, rollout, style=style), group.problem, prompt, number)
        for prompt, group in zip(prompts, groups, strict=True)
        for number, rollout in enumerate(group.rollouts)
    ]


def curate(fates: Sequence[Fate], steps: Steps, *, keep_per_prompt: int, task: Task, seed: int) -> None:
    """Gives every sample a content or a reason. One call of the judge and of the rewriter for all.

    Raises ChatError if a model that judges or rewrites fails on every one of at least two samples: it is not there.
    """
    for fate in fates:
        _filter(fate, steps.filters)
    texts: set[tuple[int, str]] = set()
    for fate in _left(fates):
        key = fate.prompt, " ".join(fate.sample.text.split())
        if key in texts:
            fate.reject(DUPLICATE)
        texts.add(key)
    for fate, verdict in _answers(steps.judge, fates, seed=seed, name="judge"):
        fate.verdict = verdict
        if verdict["correctness"] != "correct":
            fate.reject("judge: incorrect")
    kept: collections.Counter[int] = collections.Counter()
    for fate in _left(fates):
        kept[fate.prompt] += 1
        fate.content = _as_it_is(fate.sample)
        if kept[fate.prompt] > keep_per_prompt:
            fate.reject("more than keep_per_prompt")
    for fate, text in _answers(steps.rewriter, fates, seed=seed, name="rewrite"):
        fate.content = text
        _check_rewritten(fate, task)


def _left(fates: Sequence[Fate]) -> list[Fate]:
    return [fate for fate in fates if fate.reason is None]


def _filter(fate: Fate, filters: Sequence[Step]) -> None:
    for step in filters:
        if fate.reason is None and step.is_for(fate.sample):
            try:
                reason = step.function(fate.sample, **step.spec.options)
            except Exception as error:
                fate.reject(error, f"filter {step.spec.function}")
            else:
                fate.reason = reason


def _answers(step: Step | None, fates: Sequence[Fate], *, seed: int, name: str) -> Iterator[tuple[Fate, Any]]:
    """(fate, answer) of those left that the judge or the rewriter is for; where it fails on one, that is its reason."""
    asked = [fate for fate in _left(fates) if step is not None and step.is_for(fate.sample)]
    if step is None or not asked:
        return
    function = step.spec.function
    results = list(step.function([fate.sample for fate in asked], chat=step.chat, seed=seed, **step.spec.options))
    if len(results) != len(asked):
        raise ValueError(f"{name} {function}: returned {len(results)} results for {len(asked)} samples")
    failures = [result for result in results if isinstance(result, ChatError)]
    check_answered(failures, num_asked=len(results), who=f"{name} {function}", what="samples")
    if failures:
        print(f"warning: {name}: {len(failures)} of {len(results)} failed: {failures[0]}", file=sys.stderr, flush=True)
    for fate, result in zip(asked, results, strict=True):
        if isinstance(result, Exception):
            fate.reject(result, name)
        else:
            yield fate, result


def _check_rewritten(fate: Fate, task: Task) -> None:
    """Rejects what is not of the form of R1, or does not give the answer that was graded as right."""
    content = fate.content or ""
    if not parse(content, style="r1").well_formed:
        fate.reject("rewrite: ill-formed")
    elif fate.sample.is_correct:
        answer = final_answer(content, style="r1")
        try:
            if answer is None or task.grade(answer, fate.problem) < 1.0:
                fate.reject("rewrite: another answer")
        except GradingError as error:
            fate.reject(error, "rewrite")
            return
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
