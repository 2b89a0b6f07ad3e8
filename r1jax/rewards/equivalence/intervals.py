"""Sets of real numbers as lists of intervals, from whatever they are written as: brackets, inequalities, unions."""

import itertools
import re

from r1jax.rewards.equivalence.expression import read
from r1jax.rewards.equivalence.structure import LIST, items_of, sequence_of, sides_of
from r1jax.rewards.equivalence.text import UnreadableError, is_enclosed, split_top
from r1jax.rewards.equivalence.value import exact_value

Interval = tuple[bool, str, str, bool]  # closed below, lower end, upper end, closed above
FLIPPED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤", "=": "=", "≠": "≠", "≈": "≈"}

_UNION = re.compile("∪")
_VARIABLE = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?'*")
_BUILDER = re.compile(r"⦃\s*([A-Za-z])(?:\s*∈\s*ℝ)?\s*[|:]\s*(.+)⦄", re.DOTALL)
_WITHOUT = re.compile(r"(?:[A-Za-z]\s*∈\s*)?ℝ\s*(?:\\setminus|\\backslash|-)\s*(⦃.*⦄)")


def intervals_of(text: str) -> tuple[str, list[Interval]] | None:
    """The variable ("" if not said) and the intervals of a set of real numbers; None for anything else."""
    builder = _BUILDER.fullmatch(text)
    if builder:
        found = intervals_of(builder[2])
        return found if found and found[0] == builder[1] else None
    without = _WITHOUT.fullmatch(text)
    if without:
        return _all_but(items_of(without[1]) or [])
    member = re.fullmatch(r"([A-Za-z])\s*∈\s*(.+)", text)
    if member:
        found = intervals_of(member[2])
        return found and (member[1], found[1])
    parts = split_top(text, _UNION)
    if len(parts) > 1:
        return _joined(parts)
    if text == "ℝ":
        return "", [(False, "-∞", "∞", False)]
    sequence = sequence_of(text)
    if sequence:
        brackets, ends = sequence
        return ("", [(brackets[0] == "[", ends[0], ends[1], brackets[1] == "]")]) if len(ends) == 2 else None
    conjuncts = split_top(text, re.compile(r"\s*(?<![A-Za-z\\])and(?![A-Za-z])\s*"))
    if len(conjuncts) == 2:
        one, other = map(intervals_of, conjuncts)
        return _both(one, other) if one and other else None
    alternatives = split_top(text, LIST)
    if len(alternatives) > 1:
        return _joined(alternatives) if all(sides_of(part)[1] for part in alternatives) else None
    return _inequality(text)


def _joined(parts: list[str]) -> tuple[str, list[Interval]] | None:
    found = [pieces for part in parts if (pieces := intervals_of(part) or _points(part))]
    names = {name for name, _ in found if name}
    if len(found) < len(parts) or len(names) > 1:
        return None
    return "".join(names), [piece for _, pieces in found for piece in pieces]


def _points(text: str) -> tuple[str, list[Interval]] | None:
    """The members of a finite set as intervals, for a union with others."""
    items = items_of(text) if text.startswith("⦃") and is_enclosed(text) else None
    return ("", [(True, item, item, True) for item in items]) if items else None


def _both(one: tuple[str, list[Interval]], other: tuple[str, list[Interval]]) -> tuple[str, list[Interval]] | None:
    """``x > 1 and x < 3``: a bound from each side."""
    if one[0] != other[0] or len(one[1]) != 1 or len(other[1]) != 1:
        return None
    below, above = (one[1][0], other[1][0]) if one[1][0][2] == "∞" else (other[1][0], one[1][0])
    return (one[0], [(*below[:2], *above[2:])]) if below[2] == "∞" and above[1] == "-∞" else None


def _inequality(text: str) -> tuple[str, list[Interval]] | None:
    sides, signs = sides_of(text)
    if any(sign in "=≈" for sign in signs) or not all(sides):
        return None
    if len(signs) == 1:
        if not _VARIABLE.fullmatch(sides[0]):
            sides, signs = sides[::-1], [FLIPPED[signs[0]]]
        if not _VARIABLE.fullmatch(sides[0]):
            return None
        name, bound, sign = sides[0], sides[1], signs[0]
        if sign == "≠":
            found = _all_but([bound])
            return found and (name, found[1])
        closed = sign in "≤≥"
        return name, [(closed, bound, "∞", False) if sign in ">≥" else (False, "-∞", bound, closed)]
    if len(signs) == 2 and _VARIABLE.fullmatch(sides[1]):
        if signs[0] in ">≥":
            sides, signs = sides[::-1], [FLIPPED[sign] for sign in reversed(signs)]
        if signs[0] in "<≤" and signs[1] in "<≤":
            return sides[1], [(signs[0] == "≤", sides[0], sides[2], signs[1] == "≤")]
    return None


def _all_but(points: list[str]) -> tuple[str, list[Interval]] | None:
    """The real numbers without some rational ones, or without a single other."""
    if len(points) > 1:
        try:
            values = {point: exact_value(read(point)) for point in points}
        except UnreadableError:
            return None
        if None in values.values():
            return None
        points = sorted(points, key=lambda point: values[point] or 0)
    ends = ["-∞", *points, "∞"]
    return ("", [(False, low, high, False) for low, high in itertools.pairwise(ends)]) if points else None
