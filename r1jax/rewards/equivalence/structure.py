"""The outer form of a normalised answer: entries of lists and sets, sides of relations, brackets, matrices."""

import re

from r1jax.rewards.equivalence.text import is_enclosed, split_top

LIST = re.compile(r"\s*(?:,\s*(?:and|or)(?![A-Za-z])|[,;，]|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*")
_RELATION = re.compile(r"=|≈|≤|≥|<|>|≠")
_NAME = re.compile(
    r"(?:\\?[A-Za-z]+|\\(?:vec|hat|bar|overline|mathbf)\{[A-Za-z]+\})(?:_\{?\w+\}?)?'*(?:\^\{-1\})?(?:\(\s*[A-Za-z\\]+(?:\s*,\s*[A-Za-z]+)*\s*\))?"
    r"|«[^«»]*»|\([a-zA-Z](?:\s*,\s*[a-zA-Z])+\)|\|[A-Z]{2}\||m?\\(?:angle|triangle|overline)\s*\{?[A-Z]{1,3}\}?"
    r"|\\frac\{d[a-z]?\}\{d[a-z]\}|[A-Za-z]+(?: [A-Za-z]+){1,3}"
)
DENIAL = re.compile(r"(?i)\b(?:not|no|never|except|wrong|incorrect|false|isn|cannot)\b")
_TOGETHER = re.compile(r"\(((?:[A-Za-z]\s*,\s*)+[A-Za-z])\)\s*=\s*\((.*)\)", re.DOTALL)


def items_of(text: str) -> list[str] | None:
    """The entries of a list or a set, the two values of ±, ``(x, y) = (1, 2)`` as two; None for anything else."""
    if text.startswith("⦃") and is_enclosed(text):
        return _expanded(split_top(text[1:-1], LIST))
    member = re.fullmatch(r"[A-Za-z]\s*∈\s*(⦃.*)", text, re.DOTALL)
    if member:
        return items_of(member[1])
    items = split_top(text, LIST)
    if len(items) > 1:
        return _expanded(items)
    if "±" in text or "∓" in text:
        return _expanded([text])
    together = _TOGETHER.fullmatch(text)
    if together:
        names, values = (split_top(part, re.compile(",")) for part in together.groups())
        return (
            [f"{name}={value}" for name, value in zip(names, values, strict=True)]
            if len(names) == len(values)
            else None
        )
    return None


def _expanded(items: list[str]) -> list[str]:
    """With two entries for each that has ±."""
    result = []
    for item in items:
        if "±" in item or "∓" in item:
            result += [item.replace("±", "+").replace("∓", "-"), item.replace("±", "-").replace("∓", "+")]
        else:
            result.append(item)
    return [re.sub(r"(^|[=(,{])\s*\+", r"\1", item).strip() for item in result]


def sides_of(text: str) -> tuple[list[str], list[str]]:
    """The sides of a relation and the signs between them."""
    sides = split_top(text, _RELATION)
    if len(sides) == 1:
        return sides, []
    signs, rest = [], text
    for side in sides[:-1]:
        rest = rest[rest.index(side) + len(side) :].lstrip() if side else rest.lstrip()
        signs.append(rest[0])
        rest = rest[1:]
    if sides[0] == "" and signs[0] in "=≈":  # "≈ 3.14"
        return sides[1:], signs[1:]
    return sides, signs


def named(sides: list[str], signs: list[str]) -> tuple[str | None, list[str]]:
    """What is set equal to the rest, if its first side is a name; and the rest."""
    if signs and signs[0] in "=≈" and _NAME.fullmatch(sides[0]) and not DENIAL.search(sides[0]):
        return re.sub(r"[\s«»]", "", sides[0]), sides[1:]
    return None, sides


def assignment(text: str) -> tuple[str, str] | None:
    """Name and value of ``x = 5``; None for anything else."""
    sides, signs = sides_of(text)
    name, values = named(sides, signs)
    return (name, values[-1]) if name and len(signs) == 1 else None


def values_in_order(items: list[str]) -> list[str]:
    """The values of ``x = 1, y = 2`` where the names are in alphabetical order; else nothing."""
    pairs = [assignment(item) for item in items]
    names = [pair[0] for pair in pairs if pair]
    return [pair[1] for pair in pairs if pair] if len(names) == len(items) and names == sorted(set(names)) else []


def sequence_of(text: str) -> tuple[str, list[str]] | None:
    """The brackets and the entries of a tuple or an interval."""
    if len(text) < 2 or text[0] not in "([" or text[-1] not in ")]" or not is_enclosed(text):
        return None
    entries = split_top(text[1:-1], re.compile("[,;]"))
    return (text[0] + text[-1], entries) if len(entries) > 1 else None


def is_pair(text: str) -> bool:
    """Whether a text is a tuple or an interval."""
    return sequence_of(text) is not None


def matrix_of(text: str) -> list[list[str]] | None:
    """The rows of a matrix; None for anything else."""
    if text[:1] + text[-1:] in ("()", "[]"):
        text = text[1:-1].strip()
    if not (text.startswith("⟦") and text.endswith("⟧")) or "⟦" in text[1:]:
        return None
    return [[cell.strip() for cell in row.split("¦")] for row in text[1:-1].split("¶")]
