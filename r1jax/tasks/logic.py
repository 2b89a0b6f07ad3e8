"""Logic puzzles: a second check behind reasoning-gym's scorers, several of which pay for wrong answers.

Found by giving wrong answers to every scorer (reasoning-gym 0.1.25; `tests/tasks/test_logic.py` holds each case). The reward
itself is `accuracy.accuracy_reward`: the task's grade of 1.0. `confirms` is what the task asks before it believes a 1.0.
"""

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from r1jax.rewards.countdown import solves

_ONE_ANSWER = frozenset(
    {
        "coin_flip",
        "fraction_simplification",
        "game_of_life_halting",
        "gsm_symbolic",
        "letter_jumble",
        "spell_backward",
        "time_intervals",
    }
)
_FORMS = {
    "complex_arithmetic": re.compile(r"[\d.ij+\s-]+"),
    "kakurasu": re.compile(r"[01\s]+"),
    "quantum_lock": re.compile(r"[A-Za-z](?:\s*(?:→|->|,)\s*[A-Za-z])*"),
    "sokoban": re.compile(r"[UDLRudlr\s]+"),
    "survo": re.compile(r"[\d\s-]+"),
}
_CLAIM = re.compile(r"([\w'-]+)\s+is\s+an?\s+([\w-]+)", re.IGNORECASE)
_CLAIMS = re.compile(rf"\s*(?:{_CLAIM.pattern}[\s,.;]*(?:and\s+)?)+", re.IGNORECASE)
_MAX_CHARS = 2000
_NUMBER = re.compile(r"[-+]?[\d,]*\.?\d*(?:e[-+]?\d{1,3}|/\d+)?")  # the fraction 1e999999999 would never end


def confirms(dataset: str, answer: str, reference: str, metadata: Mapping[str, Any]) -> bool:
    """Whether an answer that reasoning-gym's scorer calls right is right.

    Args:
        dataset: reasoning-gym's name of the data set.
        answer: the answer.
        reference: the entry's own answer.
        metadata: the entry's metadata.
    """
    if len(answer) > max(_MAX_CHARS, 2 * len(reference)):
        return False
    numbers = [int(number) for number in metadata.get("numbers", ())] if dataset in ("countdown", "puzzle24") else []
    if dataset == "countdown":
        return solves(answer, numbers, int(metadata["target"]), allow_negation=True)
    if dataset == "puzzle24":
        return solves(answer, numbers, 24, allow_negation=True)
    if dataset == "knights_knaves":
        claims = _claims(answer)
        return claims is not None and claims == _claims(reference)
    if dataset in _FORMS:
        same_size = dataset not in ("kakurasu", "survo") or len(answer.split()) == len(reference.split())
        return same_size and _FORMS[dataset].fullmatch(answer.strip()) is not None
    return dataset not in _ONE_ANSWER or _same(answer, reference)


def _claims(text: str) -> list[tuple[str, ...]] | None:
    """Who is what, sorted; None for a text of anything else, or of two claims about one person."""
    if len(text) > _MAX_CHARS or not _CLAIMS.fullmatch(text):
        return None
    claims = sorted(tuple(part.casefold() for part in match.groups()) for match in _CLAIM.finditer(text))
    return claims if len({name for name, _ in claims}) == len(claims) else None


def _same(answer: str, reference: str) -> bool:
    """The same text but for case, white space and dollar signs, or the same number (a probability to 3 decimals)."""
    one, other = (
        " ".join(text.strip().strip("$").split()).casefold().removesuffix(" days") for text in (answer, reference)
    )
    if one == other or one.replace(" ", "") == other.replace(" ", ""):
        return True
    if not all(map(_NUMBER.fullmatch, (one, other))):
        return False
    try:
        first, second = Fraction(one.replace(",", "")), Fraction(other.replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return False
    return first == second or ("." in other and math.isclose(first, second, rel_tol=0.0, abs_tol=0.0005) and first != 0)
