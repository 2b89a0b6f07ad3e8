r"""Multiple choice: 1.0 where the final answer is the letter of the right option.

The final answer is that of ``math.extract``: the last box, inside ``<answer>`` if there is one. It must be one letter,
alone or labelled (``B``, ``(B)``, ``B.``, ``\text{(B)}``, ``Option B``, ``The answer is B``), or one label with its
text (``B. Paris``), or exactly the text of the right option where the options are given. Two letters lose ("A or B",
"(A) 1 (B) 2"), and so does prose.
"""

import re
from collections.abc import Sequence
from typing import Any

from r1jax.rewards.equivalence.text import UnreadableError, normalise
from r1jax.rewards.math import final_answers

_ALONE = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\]]?[.:)]?")
_LABELLED = re.compile(r"(?:[(\[]\s*([A-Z])\s*[)\]]\s*[.:,-]?|([A-Z])\s*[.:)]|([A-Z])\s+-)\s+(\S.*)", re.DOTALL)
_LABEL = re.compile(
    r"[(\[]\s*[A-Z]\s*[)\]]|(?<![A-Za-z'])[A-Z](?:[.:)](?=\s|$)|(?=\s*(?:,|/|or\b|and\b)\s*[A-Z]\b))|\b(?:or|and)\s+[A-Z]\b"
)


def accuracy(
    prompts: Sequence[str],
    completions: Sequence[str],
    answer: Sequence[str],
    choices: Sequence[Sequence[str] | None] | None = None,
    stop_reason: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | Exception]:
    """1.0 for the right letter, else 0.0; a response cut off at the length limit has no answer.

    Args:
        answer: [N] letters of the right options: "B" or "(B)".
        choices: [N] texts of the options in order, where known.

    Returns:
        [N] scores, or in place of one a ValueError (with its row) for a reference that is no letter of an option.
    """
    return grade_choices(final_answers(prompts, completions, stop_reason), answer, choices=choices)


def grade_choices(
    answers: Sequence[str | None], references: Sequence[str], *, choices: Sequence[Sequence[str] | None] | None = None
) -> list[float | Exception]:
    """The scores of ``accuracy`` for final answers that are extracted already; None scores 0.0."""
    options = choices or [None] * len(answers)
    scores: list[float | Exception] = []
    for row, (picked, gold, texts) in enumerate(zip(answers, references, options, strict=True)):
        right = read_letter(gold) if isinstance(gold, str) else None
        if right is None or (texts and ord(right) - ord("A") >= len(texts)):
            scores.append(ValueError(f"row {row}: reference answer {gold!r} is no letter of an option"))
            continue
        letter = None if picked is None else read_letter(picked)
        if picked and letter is None and texts:
            said = _plain(picked).casefold()
            same = [index for index, option in enumerate(texts) if said and _plain(option).casefold() == said]
            letter = chr(ord("A") + same[0]) if len(same) == 1 else None
        scores.append(float(letter == right))
    return scores


def read_letter(text: str) -> str | None:
    """The one option letter (upper case) that a text names, or None."""
    text = _plain(text)
    alone = _ALONE.fullmatch(text)
    if alone:
        return alone[1].upper()
    labelled = _LABELLED.fullmatch(text)
    if labelled and not _LABEL.search(labelled[4]):
        return next(letter for letter in labelled.groups() if letter)
    return None


def _plain(text: str) -> str:
    try:
        return " ".join(re.sub("[«»]", "", normalise(text)).split())
    except UnreadableError:
        return ""
