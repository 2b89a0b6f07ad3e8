"""Sets of real numbers, from whatever they are written as: brackets, inequalities, unions, differences.

Nothing is brought into a normal form: two sets are the same if each end of either, and a number between any two
neighbours among all ends, is in both or in neither. Ends with names (``kπ``, ``a``) are tried at several values of the
names.
"""

import re
from collections.abc import Iterator
from typing import Any

from r1jax.rewards.equivalence.expression import Node, parse_expression, symbols
from r1jax.rewards.equivalence.structure import LIST, items_of, sequence_of, sides_of
from r1jax.rewards.equivalence.text import is_enclosed, split_top
from r1jax.rewards.equivalence.value import NEEDED_POINTS, ranks, sample_points

# ("piece", closed below, lower end, upper end, closed above), ("or" | "and" | "comma", sets...), ("not", set)
Reals = tuple[Any, ...]
FLIPPED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤", "=": "=", "≠": "≠", "≈": "≈"}
_MAX_ENDS = 40
_MAX_SIGNS = 12  # of membership and size
_ALL: Reals = ("piece", False, "-∞", "∞", False)

_VARIABLE = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?'*")
_DISTANCE = re.compile(r"\|\s*(\\?[A-Za-z]+)\s*([-+][^|]+)?\|")
_BUILDER = re.compile(r"⦃?\s*([A-Za-z])\s*(?:∈\s*ℝ)?\s*[|:]\s*(.+?)⦄?", re.DOTALL)
_MEMBER = re.compile(r"([A-Za-z])\s*∈\s*(.+)", re.DOTALL)
_EXCEPT = re.compile(r"^«?all real(?:s| numbers),? (?:except(?: for)?|other than) ?»? ?(?:[a-z] ?= ?)?(.+?)»?$")
_MINUS = re.compile(r"\\setminus|\\(?=\s*⦃)|-(?=\s*⦃)")
_AND = re.compile(r"\s*(?<![A-Za-z\\])and(?![A-Za-z])\s*")


def reals_of(text: str) -> tuple[str, Reals] | None:
    """The variable ("" if not said) and the set; None for anything else."""
    text = text.strip()
    if len(re.findall("[∈|]", text)) > _MAX_SIGNS:
        return None
    for builder in (_BUILDER.fullmatch(text), _MEMBER.fullmatch(text)):
        found = reals_of(builder[2]) if builder else None
        if builder and found and found[0] in ("", builder[1]):
            return builder[1], found[1]
    text = _EXCEPT.sub(r"ℝ\\setminus⦃\1⦄", text)
    whole, *without = split_top(text, _MINUS)
    if without:
        return _joined("and", [whole, *without], lambda index, found: ("not", found) if index else found)
    for kind, separator in (("or", re.compile("∪")), ("and", re.compile("∩")), ("and", _AND)):
        parts = split_top(text, separator)
        if len(parts) > 1:
            are_sets = separator is not _AND or all(sides_of(part)[1] or "∈" in part for part in parts)
            return _joined(kind, parts) if are_sets else None
    if text == "ℝ":
        return "", _ALL
    sequence = sequence_of(text)
    if sequence:
        brackets, ends = sequence
        return ("", ("piece", brackets[0] == "[", *ends, brackets[1] == "]")) if len(ends) == 2 else None
    if text[:1] in ("(", "[") and is_enclosed(text):
        return reals_of(text[1:-1])
    parts = split_top(text, LIST)
    if len(parts) > 1:
        kind = "comma" if "," in text else "or"
        return _joined(kind, parts) if all(sides_of(part)[1] or "∈" in part for part in parts) else None
    return _inequality(text)


def same_reals(gold: Reals, answer: Reals, *, deep: bool) -> bool:
    """Whether two sets have the same members. Raises as ``value.same_value``."""
    ends: dict[str, Node] = {}
    for _, _, *pair, _ in (*_pieces(gold), *_pieces(answer)):
        ends.update({end: parse_expression(end) for end in pair if not _infinity(end)})
    if len(ends) > _MAX_ENDS:
        return False
    names = sorted(frozenset().union(*map(symbols, ends.values())))
    num_tried = 0
    for point in sample_points(names):
        places = ranks(list(ends.values()), point, deep=deep)
        if places is None:
            continue
        order = dict(zip(ends, places, strict=True))
        places = range(-1, 2 * len(ends) + 1)
        members, others = ([_contains(reals, place, order, places) for place in places] for reals in (gold, answer))
        if members != others:
            return False
        num_tried += any(members)
    return num_tried >= (NEEDED_POINTS if names else 1)


def _joined(kind: str, parts: list[str], change: Any = lambda index, found: found) -> tuple[str, Reals] | None:
    found = [reals_of(part) or _points(part) for part in parts]
    names = {one[0] for one in found if one and one[0]}
    if len(names) > 1 or None in found:
        return None
    return "".join(names), (kind, *(change(index, one[1]) for index, one in enumerate(found) if one))


def _points(text: str) -> tuple[str, Reals] | None:
    """A finite set, for a union with others."""
    items = items_of(text) if text.startswith("⦃") and is_enclosed(text) else None
    return ("", ("or", *(("piece", True, item, item, True) for item in items))) if items else None


def _inequality(text: str) -> tuple[str, Reals] | None:
    sides, signs = sides_of(text)
    if any(sign in "=≈" for sign in signs) or not all(sides):
        return None
    if len(signs) == 1:
        if not _VARIABLE.fullmatch(sides[0]) and not _DISTANCE.fullmatch(sides[0]):
            sides, signs = sides[::-1], [FLIPPED[signs[0]]]
        (name, bound), sign, distance = sides, signs[0], _DISTANCE.fullmatch(sides[0])
        is_closed = sign in "≤≥"
        if distance and sign != "≠":
            low, high = f"-({distance[2] or 0})-({bound})", f"-({distance[2] or 0})+({bound})"
            inside: Reals = ("piece", is_closed == (sign in "<≤"), low, high, is_closed == (sign in "<≤"))
            return distance[1], inside if sign in "<≤" else ("not", inside)
        if not _VARIABLE.fullmatch(name):
            return None
        if sign == "≠":
            bounds = items_of(bound) or [bound]
            return name, ("not", ("or", *(("piece", True, item, item, True) for item in bounds)))
        is_above = sign in ">≥"
        return name, ("piece", is_closed, bound, "∞", False) if is_above else ("piece", False, "-∞", bound, is_closed)
    if len(signs) == 2 and _VARIABLE.fullmatch(sides[1]):
        if signs[0] in ">≥":
            sides, signs = sides[::-1], [FLIPPED[sign] for sign in reversed(signs)]
        if signs[0] in "<≤" and signs[1] in "<≤":
            return sides[1], ("piece", signs[0] == "≤", sides[0], sides[2], signs[1] == "≤")
    return None


def _infinity(end: str) -> int:
    return {"∞": 1, "+∞": 1, "-∞": -1}.get(end.replace(" ", ""), 0)


def _pieces(reals: Reals) -> Iterator[Reals]:
    if reals[0] == "piece":
        yield reals
    else:
        for part in reals[1:]:
            yield from _pieces(part)


def _contains(reals: Reals, place: int, order: dict[str, int], places: range) -> bool:
    """Whether the number at a place is a member: even places are ends, in their order, odd ones lie between."""
    match reals:
        case ("piece", is_closed_below, low, high, is_closed_above):
            lower, upper = (
                2 * order[end] if not _infinity(end) else _infinity(end) * (len(places) + 2) for end in (low, high)
            )
            return (lower < place or (lower == place and is_closed_below)) and (
                place < upper or (place == upper and is_closed_above)
            )
        case ("not", part):
            return not _contains(part, place, order, places)
        case ("and", *parts):
            return all(_contains(part, place, order, places) for part in parts)
        case ("comma", *parts) if all(any(_contains(part, each, order, places) for part in parts) for each in places):
            return all(_contains(part, place, order, places) for part in parts)  # x ≠ 1, x ≠ 2
    return any(_contains(part, place, order, places) for part in reals[1:])
