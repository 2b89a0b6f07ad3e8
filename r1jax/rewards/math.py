r"""Math accuracy: 1.0 where the last balanced ``\boxed{...}`` means the same as the reference answer (R1 v2 Eq. 4, B.3.1).

The answer is looked for inside ``<answer>`` if there is one, else behind ``</think>``, else in the whole text; a part that is
marked as the answer may go without a box. What "means the same" is: ``equivalence.answer``. Most pairs are decided here in
microseconds; those with irrational numbers go to worker processes (``workers``), which are killed on timeout. A timeout or
a crash gives its exception in place of a score: the rubric counts it, and it is never taken for a wrong answer.

Deviations: (1) boxes with only "and", "or" or a comma between them are one answer of several values. (2) math-verify is asked
only about references that our own reader of expressions cannot read: alone it calls more than one in ten wrong answers of
the corpus right, and more right ones wrong (``python -m r1jax.bench verifiers`` counts).
"""

import functools
import re
from collections.abc import Sequence
from typing import Any

from r1jax.rewards.equivalence.answer import equivalent
from r1jax.rewards.equivalence.value import UndecidedError
from r1jax.rewards.workers import WorkerPool
from r1jax.text.response import boxed, parse

_TAIL_CHARS = 65536
_MAX_BOXES = 40
_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_SPACE = r"(?:[\s$~]|\\[,;:() \[\]]|\\q?quad)*"
_BETWEEN_BOXES = re.compile(rf"{_SPACE}(?:,|;|(?:,\s*)?(?:and|or)|,?\s*\\text\s*\{{\s*,?\s*(?:and|or)\s*\}}){_SPACE}")
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
        prompts: [N] prompts; one that ends with ``<think>`` has opened the thought.
        completions: [N] responses.
        answer: [N] reference answers, texts or numbers.
        stop_reason: [N] "length" marks a response that was cut off.
        columns: not used.

    Returns:
        [N] scores; in place of one, ``ValueError`` for a reference that is empty or unreadable (with its row), or the
        ``TimeoutError`` or ``WorkerError`` of the verifier. Equal pairs are verified once.
    """
    found = final_answers(prompts, completions, stop_reason)
    pairs = [(_reference(gold), text) for gold, text in zip(answer, found, strict=True)]
    verdicts = _verdicts(dict.fromkeys(pairs))
    scores: list[float | Exception] = []
    for row, pair in enumerate(pairs):
        verdict = verdicts[pair]
        if isinstance(verdict, ValueError):
            verdict = ValueError(f"row {row}: {verdict}")
        scores.append(verdict if isinstance(verdict, Exception) else float(verdict))
    return scores


def check_answer(answer: Any) -> None:
    """Raises ValueError that tells why a reference answer cannot be used: empty, too long, not a text or a number."""
    equivalent(_reference(answer), "0", second_opinion=lambda gold, answer: False)


def final_answers(
    prompts: Sequence[str], completions: Sequence[str], stop_reason: Sequence[str] | None
) -> list[str | None]:
    """The final answer of each completion; None where it has none or was cut off at the length limit."""
    reasons = stop_reason or ["stop"] * len(completions)
    return [
        None if reason == "length" else extract(text, in_thought=prompt.rstrip().endswith("<think>"))
        for prompt, text, reason in zip(prompts, completions, reasons, strict=True)
    ]


def extract(text: str, *, in_thought: bool = False) -> str | None:
    """The final answer in a response, or None. Only the last 65,536 characters are looked at.

    Args:
        text: the response.
        in_thought: it begins inside of the thought: nothing before ``</think>`` is an answer.
    """
    text = text[-_TAIL_CHARS:]
    if "<answer>" in text or "</answer>" in text:
        part = parse(text).answer or ""
    else:
        _, closing, part = text.rpartition("</think>")
        if "<think>" in part or (not closing and (in_thought or "\\boxed" not in part)):
            return None
    boxes = _last_boxes(part)
    if boxes:
        return ", ".join(boxes)
    part = part.strip()
    return part if 0 < len(part) <= _UNBOXED_CHARS and "\\boxed" not in part else None


def _last_boxes(text: str) -> list[str]:
    """The contents of the last balanced box and of those before it with no more than a comma, "and" or "or" between."""
    boxes, open_braces = [], []
    for match in _BRACES.finditer(text):
        if match.group().endswith("{") and match.group() != r"\{":
            open_braces.append(match)
        elif match.group() == "}" and open_braces:
            opening = open_braces.pop()
            if opening.group() != "{":
                boxes.append((opening.start(), match.end(), text[opening.end() : match.start()].strip()))
    boxes.sort(reverse=True)
    run = boxes[:1]
    for box in boxes[1:_MAX_BOXES]:
        if box[1] > run[-1][0] or not _BETWEEN_BOXES.fullmatch(text, box[1], run[-1][0]):
            break
        run.append(box)
    return [content for _, _, content in reversed(run)]


def start() -> None:
    """Starts the worker processes now rather than at the first need.

    A worker takes about 0.1 s to start, as much again at its first irrational number (mpmath) and about a second at the
    first reference that needs math-verify.
    """
    _pool().start()


@functools.cache
def _pool() -> WorkerPool:
    return WorkerPool("r1jax.rewards.equivalence.second_opinion:judge", seconds=5.0, memory_mb=1024)


def _reference(answer: Any) -> str:
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        return ""
    inside = boxed(answer) if isinstance(answer, str) else None
    return str(answer) if inside is None else inside


def _verdicts(pairs: Sequence[tuple[str, str | None]] | dict) -> dict[tuple[str, str | None], bool | Exception]:
    verdicts: dict[tuple[str, str | None], bool | Exception] = {}
    undecided = []
    for gold, answer in pairs:
        try:
            verdicts[gold, answer] = equivalent(gold, answer or "")
        except UndecidedError:
            undecided.append((gold, answer))
        except ValueError as error:
            verdicts[gold, answer] = error
    if undecided:
        results = _pool().map([list(pair) for pair in undecided])
        for pair, result in zip(undecided, results, strict=True):
            verdicts[pair] = ValueError(result) if isinstance(result, str) else result
    return verdicts
