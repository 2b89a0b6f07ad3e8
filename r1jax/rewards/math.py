r"""Math accuracy: 1.0 where the marked answer means the same as the reference answer (R1 v2 Eq. 4, B.3.1).

Marked are the last box (``\boxed{5}``, ``\boxed 5``, ``\fbox{5}``), or else the last "Answer: 5", "#### 5", "答案是5" or
"The final answer is $5$": of a reference (``response.marked_answer``) as of what follows the thought of a response
(``response.summary_of``), there inside ``<answer>`` if there is one. What is inside ``<answer>``, or follows
``</think>``, may go without a mark. What "means the same" is: ``equivalence.answer``. Most pairs are decided here in
microseconds; those with irrational numbers go to worker processes (``workers``), which are killed on timeout. A timeout
or a crash gives its exception in place of a score: the rubric counts it, and it is never taken for a wrong answer.

Deviations: (1) boxes with only "and", "or" or a comma between them are one answer of several values. (2) math-verify is
asked only about references that our own reader of expressions cannot read: alone it calls more than one in ten wrong
answers of the corpus right, and more right ones wrong (``python -m r1jax.bench verifiers`` counts).
"""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

from r1jax.rewards.accuracy import graded_by
from r1jax.rewards.equivalence.answer import equivalent
from r1jax.rewards.equivalence.value import UndecidedError
from r1jax.rewards.workers import WorkerPool
from r1jax.text.response import is_cut_off, marked_answer, parse, summary_of

_TAIL_CHARS = 65536
_UNBOXED_CHARS = 200


def accuracy(
    prompts: Sequence[str],
    completions: Sequence[str],
    answer: Sequence[Any],
    stop_reason: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | Exception]:
    """1.0 for a right final answer, 0.0 for a wrong one, none, or a response cut off at the length limit.

    Args:
        answer: [N] reference answers, texts or numbers.
        columns: an answer that the task has graded is not verified again (``accuracy.graded_by``).

    Returns:
        [N] scores; in place of one, ``ValueError`` for a reference that is empty or unreadable (with its row), or the
        ``TimeoutError`` or ``WorkerError`` of the verifier. Equal pairs are verified once.
    """
    answers = final_answers(prompts, completions, stop_reason)
    graded = graded_by("math", columns, count=len(completions))
    is_graded = [
        grade is not None and text == extracted and "\\boxed" not in extracted
        for text, (extracted, grade) in zip(answers, graded, strict=True)
    ]
    scores = grade_math([None if known else text for text, known in zip(answers, is_graded, strict=True)], answer)
    known_grades = [grade if known else None for (_, grade), known in zip(graded, is_graded, strict=True)]
    return [score if grade is None else grade for score, grade in zip(scores, known_grades, strict=True)]


def grade_math(answers: Sequence[str | None], references: Sequence[Any]) -> list[float | Exception]:
    """The scores of ``accuracy`` for final answers that are extracted already; None scores 0.0."""
    pairs = [(_read(gold), _read(text)) for gold, text in zip(references, answers, strict=True)]
    verdicts = _verdicts(list(dict.fromkeys(pairs)))
    scores: list[float | Exception] = []
    for row, pair in enumerate(pairs):
        verdict = verdicts[pair]
        if isinstance(verdict, ValueError):
            verdict = ValueError(f"row {row}: {verdict}")
        scores.append(verdict if isinstance(verdict, Exception) else float(verdict))
    return scores


def same_answers(pairs: Sequence[tuple[str, str]]) -> list[bool | Exception]:
    """Whether the two answers of each pair mean the same: each must be right with the other one as the reference.

    An answer that could be no reference (empty, unreadable) is the same as none. In place of a verdict the
    ``TimeoutError`` or ``WorkerError`` of the verifier.
    """
    read = [(_read(one), _read(other)) for one, other in pairs]
    verdicts = _verdicts(list(dict.fromkeys(read)))
    back = _verdicts(list(dict.fromkeys((other, one) for one, other in read if verdicts[one, other] is True)))
    found = [back[other, one] if verdicts[one, other] is True else verdicts[one, other] for one, other in read]
    return [False if isinstance(verdict, ValueError) else verdict for verdict in found]


def check_answer(answer: Any) -> None:
    """Raises ValueError that tells why a reference answer cannot be used: empty, too long, not a text or a number."""
    with contextlib.suppress(UndecidedError):
        equivalent(_read(answer), "0")


def final_answers(
    prompts: Sequence[str], completions: Sequence[str], stop_reason: Sequence[str] | None
) -> list[str | None]:
    """The final answer of each completion; None where it has none or was cut off at the length limit."""
    is_cut = is_cut_off(stop_reason, len(completions))
    return [
        None if cut else extract(text, prompt=prompt)
        for prompt, text, cut in zip(prompts, completions, is_cut, strict=True)
    ]


def extract(text: str, *, prompt: str = "") -> str | None:
    """The final answer in a response, or None. Only the last 65,536 characters are looked at, and nothing of the thought."""
    part = summary_of(text, prompt=prompt)
    if part is None:
        return None
    part, is_marked = part[-_TAIL_CHARS:], "</think>" in text
    if "<answer>" in part or "</answer>" in part:
        part, is_marked = parse(part).answer or "", True
    marked = marked_answer(part)
    if marked is not None:
        return marked
    is_answer = is_marked and 0 < len(part) <= _UNBOXED_CHARS and "\\boxed" not in part
    return part if is_answer else None


def start() -> None:
    """Starts the worker processes now rather than at the first need.

    A worker takes about 0.1 s to start, as much again at its first irrational number (mpmath) and about a second at the
    first reference that needs math-verify.
    """
    _pool().start()


@functools.cache
def _pool() -> WorkerPool:
    return WorkerPool("r1jax.rewards.equivalence.answer:verify_pair", seconds=5.0, memory_mb=1024)


def _read(answer: Any) -> str:
    """What is compared, of a reference as of an answer: what it marks as the answer, or all of it."""
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        return ""
    marked = marked_answer(answer) if isinstance(answer, str) else None
    return str(answer) if marked is None else marked


def _verdicts(pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], bool | Exception]:
    verdicts: dict[tuple[str, str], bool | Exception] = {}
    undecided = []
    for gold, answer in pairs:
        try:
            verdicts[gold, answer] = equivalent(gold, answer)
        except UndecidedError:
            undecided.append((gold, answer))
        except ValueError as error:
            verdicts[gold, answer] = error
    if undecided:
        results = _pool().map([list(pair) for pair in undecided])
        for pair, result in zip(undecided, results, strict=True):
            verdicts[pair] = ValueError(result) if isinstance(result, str) else result
    return verdicts
