"""The outer form of a normalised answer: entries of lists and sets, sides of relations, brackets, matrices."""

import itertools
import re

from r1jax.rewards.equivalence.text import is_enclosed, split_top
from r1jax.rewards.equivalence.words import is_product

LIST = re.compile(r"\s*(?:,\s*(?:and|or)(?![A-Za-z])|[,;，]|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*")
_RELATION = re.compile(r"=|≈|≤|≥|<|>|≠")
_ATOM = (
    r"(?:\\?[A-Za-z]+|\\(?:vec|hat|bar|overline|mathbf)\{[A-Za-z]+\})(?:_\{?\w+\}?)?'*(?:\^\{-1\})?"
    r"(?:\(\s*(?:[A-Za-z\\]+(?:\s*,\s*[A-Za-z]+)*|-?\d+)\s*\)|(?<=[PE])\([^()=]{1,30}\)|(?<=P)\([^()]{1,30}\))?"
)
_NAME = re.compile(
    rf"{_ATOM}(?:\s*(?::|/(?=[A-Z]))\s*{_ATOM})*|(?=\\frac\{{(?:d|[A-Z]))\\frac\{{{_ATOM}\}}\{{{_ATOM}\}}|\\(?:sin|cos|tan|cot|det)\s*(?:\\[a-z]+|\\angle\s*[A-Z]{{1,3}}|[A-Z])"
    r"|«[^«»]*»|\([a-zA-Z](?:\s*,\s*[a-zA-Z])+\)|\|[A-Z]{2}\||(?:m|[A-Z]_)?\{?\\(?:angle|triangle|overline|vec)\s*\{?[A-Z]{1,4}\}?\}?"
    r"|[A-Z](?: ?[∪∩] ?[A-Z])+|\\complement_\{?[A-Z]\}? ?[A-Z]|\|\\vec\{[A-Za-z]+\}\||[A-Za-z]+(?: [A-Za-z]+){1,3}"
)
DENIAL = re.compile(r"(?i)\b(?:not|no|never|except|wrong|incorrect|false|isn|cannot)\b")
_TRANSPOSE = r"\s*\^\s*\{?\s*(?:T|t|\\top|\\intercal|«T»|'|\\mathsf\{T\})\s*\}?"
_TRANSPOSED = re.compile(r"([(\[].*[)\]])" + _TRANSPOSE, re.DOTALL)
_MATRIX = re.compile(rf"[(\[]?([^⟦⟧=]*?)[(\[]?⟦([^⟦⟧]*)⟧[)\]]?({_TRANSPOSE})?[)\]]?")
_DOMAIN = re.compile(
    r"[,;]?\s*\(?\s*(?:«[^«»]*»\s*)?(?<![A-Za-z\\])([A-Za-z])\s*∈\s*([ℤℕℝ])\s*(\^?\s*\{?[*+]\}?|_\{?\+\}?)?\s*\)?$"
)
_INTEGER = re.compile(
    r"(?:[,;(«]|(?<![A-Za-z])(?:where|for|with)(?![A-Za-z]))[^,;()]*\b(?:integers?|natural numbers?)\b[^,;()]*\)?$"
)
_FAMILY = re.compile(r"⦃\s*[A-Za-z]\s*[|:]\s*(.*∈\s*[ℤℕ].*)⦄", re.DOTALL)
_INDEX = re.compile(r"\\(?:sum|prod)\s*_\{([a-z])=")
_CONSTANT = re.compile(r"\\[A-Za-z]+|([A-DKck](?:_\{\d\})?)")
_WITH_CONSTANTS = re.compile(  # and no other names than x, y, t; so Q = CV has none
    r"(?=.*(?:\+ ?[CK]$|[CK]_\{1|[CK] ?(?:e\^|\\(?:sin|cos|exp|ln))|^y(?:\(x\))? ?=))(?=.*[xt])"
    r"(?:\\[a-z]+(?![a-z])|[^A-Za-z\\]|[xytefi]|[CK](?:_\{\d\})?)*"
)
_SCALED = re.compile(
    r"(-|-?(?:\d[\d.]*|\\frac(?:\{(?:[^{}]|\{[^{}]*\})*\}){2}|\\sqrt\{\d+\}|\(\\frac\{\d+\}\{\d+\}\)))\s*\*?\s*(\(.*,.*\))",
    re.DOTALL,
)
_MULTIPLES = re.compile(r"^⦃([^|:⦃]*)[|:](\s*[a-z]\s*∈\s*[ℤℕ].*)⦄$", re.DOTALL)
_RESTATED = re.compile(
    r"(.*?[^\s«(]) ?«?\(«?((?:i\.e\.|that is|or|which is|approximately|approx\.?|about|≈|=)?),? ?»?([^()]+|[^()]*\([^()]*\)[^()]*)\)»?",
    re.DOTALL,
)
_TOGETHER = re.compile(r"\(((?:[A-Za-z]\s*,\s*)+[A-Za-z])\)\s*=\s*\((.*)\)", re.DOTALL)


def items_of(text: str) -> list[str] | None:
    """The entries of a list or a set, the two values of ±, ``(x, y) = (1, 2)`` as two; None for anything else."""
    if text.startswith("⦃") and is_enclosed(text) and text != "⦃∅⦄":
        return _expanded(split_top(text[1:-1], LIST))
    member = re.fullmatch(r"[A-Za-z]\s*∈\s*(⦃.*)", text, re.DOTALL)
    if member:
        return items_of(member[1])
    is_words = text.startswith("«") and is_enclosed(text)
    items = [f"«{item}»" for item in split_top(text[1:-1], LIST)] if is_words else split_top(text, LIST)
    if len(items) > 1:
        return _expanded(items)
    if "±" in text or "∓" in text:
        return _expanded([text])
    together = _TOGETHER.fullmatch(text)
    if together:
        names, values = (split_top(part, re.compile(",")) for part in together.groups())
        if len(names) == len(values):
            return [f"{name}={value}" for name, value in zip(names, values, strict=True)]
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
    is_name = _NAME.fullmatch(sides[0]) and not _is_curve(sides[0]) and not DENIAL.search(sides[0])
    if is_name and signs and signs[0] in "=≈":
        return re.sub(r"[\s«»]", "", sides[0]), sides[1:]
    return None, sides


def _is_curve(side: str) -> bool:
    """Whether a side is a product of variables: ``xy = 6`` has many solutions, 6 is none."""
    return side.isalpha() and side.islower() and len(side) > 1 and is_product(side)


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
    """The brackets and the entries of a tuple (or of a number times one), or an interval."""
    scaled = _SCALED.fullmatch(text)
    if scaled:
        brackets, entries = sequence_of(scaled[2]) or ("", [])
        scale = "-1" if scaled[1] == "-" else scaled[1]
        return (brackets, [f"({scale})*({entry})" for entry in entries]) if brackets == "()" else None
    if len(text) < 2 or text[0] not in "([" or text[-1] not in ")]" or not is_enclosed(text):
        return None
    entries = split_top(text[1:-1], re.compile("[,;]"))
    return (text[0] + text[-1], entries) if len(entries) > 1 else None


def matrix_of(text: str) -> list[list[str]] | None:
    """The rows of a matrix, of a number times one, or of a transposed one; None for anything else."""
    nested = sequence_of(text) if text[:2] == "[[" else None
    if nested:
        inner = [sequence_of(row) for row in nested[1]]
        return [row[1] for row in inner if row] if all(inner) else None
    diagonal = re.fullmatch(r"\\?«?diag»?\s*(\(.*\))", text)
    if diagonal:
        entries = entries_of(diagonal[1]) or []
        return [
            [entry if row == column else "0" for column in range(len(entries))] for row, entry in enumerate(entries)
        ]
    match = _MATRIX.fullmatch(text)
    if match is None:
        return None
    scale = "-1" if match[1] == "-" else match[1].strip(" *")
    rows = [[cell.strip() for cell in row.split("¦")] for row in match[2].split("¶")]
    if scale:
        rows = [[f"({scale})*({cell})" for cell in row] for row in rows]
    return [list(column) for column in zip(*rows, strict=False)] if match[3] else rows


def entries_of(text: str) -> list[str] | None:
    """The entries of a tuple, or of a matrix with one row or column."""
    rows = matrix_of(text)
    if rows is None:
        transposed = _TRANSPOSED.fullmatch(text)
        sequence = sequence_of(transposed[1] if transposed else text)
        return sequence[1] if sequence and (sequence[0] == "()" or transposed) else None
    return rows[0] if len(rows) == 1 else [row[0] for row in rows] if {len(row) for row in rows} == {1} else None


def without_domain(text: str) -> tuple[str, tuple[str, str] | None]:
    """A text without the domain of its parameter, and (name, domain): ``kπ, k∈ℤ``, ``2n-1 (n∈ℕ^{*})``, ``kπ for integer k``."""
    builder = _FAMILY.fullmatch(text)
    text = builder[1] if builder else _MULTIPLES.sub(r"\1,\2", text)
    match = _DOMAIN.search(text)
    if match:
        is_natural = match[3] or "positive" in match.group() or "natural" in match.group()
        name, domain = match[1], "ℕ" if is_natural else match[2]
    else:
        match = _INTEGER.search(text)
        letters = re.findall("(?<![A-Za-z])([b-z])(?![A-Za-z])", match.group()) if match else []
        if match is None or len(letters) != 1:
            return text, None
        name, domain = letters[0], "ℕ" if "positive" in match.group() else "ℤ"
    core = text[: match.start()].rstrip(" ,;")
    return (core, (name, domain)) if re.search(rf"(?<![A-Za-z\\]){name}(?![A-Za-z])", core) else (text, None)


def other_names(gold: str, answer: str) -> list[str]:
    """The answer with the reference's names for arbitrary constants (``C``, ``K``, ``C_1``) or for the index of a sum."""
    indices = [_INDEX.findall(text) for text in (gold, answer)]
    if len(indices[0]) == len(indices[1]) == 1 and indices[0] != indices[1]:
        (name,), (other,) = indices
        return [] if renamed(answer, name, "") != answer else [renamed(answer, other, name)]
    names, others = (sorted({*_CONSTANT.findall(text)} - {""}) for text in (gold, answer))
    if names == others or len(names) != len(others) or len(names) > 3 or not _WITH_CONSTANTS.fullmatch(gold):
        return []
    orders = [dict(zip(others, order, strict=True)) for order in itertools.permutations(names)]
    return [_CONSTANT.sub(lambda name, new=new: new.get(name[1], name[0]), answer) for new in orders]


def renamed(text: str, name: str, other: str) -> str:
    """A text with one single letter in place of another (or an expression, in brackets)."""
    return re.sub(rf"(?<![A-Za-z\\]){name}(?![A-Za-z])", lambda _: other, text)


def restated(text: str) -> tuple[str, str] | None:
    """The two answers of ``3/4 (75%)`` and ``25 (i.e., 5^2)``; None for anything else."""
    match = _RESTATED.fullmatch(text) if text.count("(") < 5 else None
    return (match[1].strip(), match[3].strip(" «»")) if match and (match[2] or text[match.end(1)] == " ") else None
