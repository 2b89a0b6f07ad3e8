"""Accuracy rewards: 1.0 where the task grades the answer as right (a grade of 1.0), else 0.0 (R1 v2 Eq. 4).

Partial credit of a task is its metric, never a reward here. A verifier that fails gives an exception in place of a
score: the rubric counts it as an error. A response cut off at the length limit has no final answer: 0.0 (spec G.12).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.text.response import is_cut_off

_NUMBER = re.compile(r"(?:(?<![\w)])[+-])?\d+(?:,\d{3})*(?:\.\d+)?")


def accuracy_reward(
    prompts: Sequence[str],
    completions: Sequence[str],
    answer_grade: Sequence[float | None],
    grading_error: Sequence[str | None] | None = None,
    **columns: Any,
) -> list[float | Exception]:
    """The grade that each answer has already (``rollout.collect``); where it stands the chat template says, or the
    problem.

    Args:
        answer_grade: [N] the task's grade of the extracted answer, 0.0 without one; None where grading failed.
        grading_error: [N] why it failed.
    """
    errors = grading_error or [None] * len(answer_grade)
    return [
        RuntimeError(error or "no grade") if grade is None else float(grade >= 1.0)
        for grade, error in zip(answer_grade, errors, strict=True)
    ]


def graded_by(grader: str, columns: Mapping[str, Sequence[Any]], *, count: int) -> list[tuple[str, float | None]]:
    """(extracted answer, grade) of each completion whose answer the verifier ``grader`` ("code", "math") has graded
    already.

    The answer is "" and the grade None where another verifier has, or where there is no answer; the grade is None where
    grading failed, or outside of ``rollout.collect``. For rewards that call the same verifier: no answer is verified
    twice.
    """
    names = ("answer_grader", "extracted_answer", "answer_grade")
    if not all(name in columns for name in names):
        return [("", None)] * count
    return [
        (text, grade) if kind == grader and text else ("", None)
        for kind, text, grade in zip(*(columns[name] for name in names), strict=True)
    ]


def last_number_reward(
    prompts: Sequence[str],
    completions: Sequence[str],
    problem: Sequence[Any],
    task: Sequence[Any],
    stop_reason: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | Exception]:
    """Lenient: the answer is the last number in the response. For models that know no tags; easily hit by luck."""
    scores: list[float | Exception] = []
    is_cut = is_cut_off(stop_reason, len(completions))
    for text, asked, grader, cut in zip(completions, problem, task, is_cut, strict=True):
        answer = None if cut else last_number(text)
        try:
            scores.append(0.0 if answer is None else float(grader.grade(answer, asked) >= 1.0))
        except Exception as error:
            scores.append(error)
    return scores


def last_number(text: str) -> str | None:
    """The last number in a text, without its thousands separators, or None."""
    numbers = _NUMBER.findall(text)
    return numbers[-1].replace(",", "") if numbers else None
