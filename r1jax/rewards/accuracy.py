r"""Accuracy rewards: 1.0 where the task grades the extracted answer as right (a grade of 1.0), else 0.0 (R1 v2 Eq. 4).

All of them need the columns "problem" and "task" (the ``Task`` of each completion, or a mixture). Partial credit of a
task is its metric, never a reward here. A verifier that fails gives its exception in place of a score: the rubric
counts it as an error. A response cut off at the length limit has no final answer: 0.0 (spec G.12).
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from r1jax.text.response import final_answer, is_cut_off

_NUMBER = re.compile(r"(?:(?<![\w)])[+-])?\d+(?:,\d{3})*(?:\.\d+)?")


def accuracy_reward(
    prompts: Sequence[str],
    completions: Sequence[str],
    problem: Sequence[Any],
    task: Sequence[Any],
    stop_reason: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | Exception]:
    r"""R1-Zero: the answer is inside ``<answer>`` (its last balanced ``\boxed{...}`` if there is one)."""
    return _graded(final_answer, completions, problem, task, stop_reason)


def r1_accuracy_reward(
    prompts: Sequence[str],
    completions: Sequence[str],
    problem: Sequence[Any],
    task: Sequence[Any],
    stop_reason: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | Exception]:
    r"""R1: the answer is in the summary after ``</think>``: its ``<answer>``, its last ``\boxed{...}``, or all of it."""
    return _graded(lambda text: final_answer(text, style="r1"), completions, problem, task, stop_reason)


def last_number_reward(
    prompts: Sequence[str],
    completions: Sequence[str],
    problem: Sequence[Any],
    task: Sequence[Any],
    stop_reason: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | Exception]:
    """Lenient: the answer is the last number in the response. For models that know no tags; easily hit by luck."""
    return _graded(last_number, completions, problem, task, stop_reason)


def last_number(text: str) -> str | None:
    """The last number in a text, without its thousands separators, or None."""
    numbers = _NUMBER.findall(text)
    return numbers[-1].replace(",", "") if numbers else None


def _graded(
    extract: Callable[[str], str | None],
    completions: Sequence[str],
    problems: Sequence[Any],
    tasks: Sequence[Any],
    stop_reason: Sequence[str] | None,
) -> list[float | Exception]:
    is_cut = is_cut_off(stop_reason, len(completions))
    scores: list[float | Exception] = []
    for text, problem, task, cut in zip(completions, problems, tasks, is_cut, strict=True):
        answer = None if cut else extract(text)
        try:
            scores.append(0.0 if answer is None else float(task.grade(answer, problem) >= 1.0))
        except Exception as error:
            scores.append(error)
    return scores
