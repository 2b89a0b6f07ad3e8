r"""Are two written answers the same? Lists, sets, intervals, tuples, matrices, equations, units, words; ``value`` does the rest.

The rules, where mathematics leaves a choice:

- Exact: ``0.33`` is not ``1/3``, ``1.41`` is not ``\sqrt{2}``; ``0.5`` is ``1/2``.
- A list ("1, 2", "1 and 2", ``\pm 1``) has no order, a tuple has. A set may be written as a list, a tuple may not. An answer of
  several values is never the answer to a reference of one.
- ``x = 5`` is the answer ``5`` and the other way round, but ``x = 1`` is not ``y = 1``; in a chain ``x = 2 + 3 = 5`` every side
  must be right. Equations are the same if the differences of their sides are in a constant ratio other than 0.
- A sum of names may be named (``m + n = 13`` is ``13``), a modulus may be left out or added.
- A unit may be left out or added; two units must measure the same (``100 cm`` is ``1 m``). ``50%`` is ``0.5``, and ``50`` too:
  the sign may be left out or added where the number is at least 1.
- Inequalities in one variable are the intervals that they describe. An open interval and a pair are written alike.
- A reference with a number base (``1010_2``) may be given without it.
- Words are compared without regard to case and punctuation.
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from r1jax.rewards.equivalence.expression import Node, number, read, symbols
from r1jax.rewards.equivalence.intervals import FLIPPED, Interval, intervals_of
from r1jax.rewards.equivalence.second_opinion import math_verify
from r1jax.rewards.equivalence.structure import (
    DENIAL,
    assignment,
    is_pair,
    items_of,
    matrix_of,
    named,
    sequence_of,
    sides_of,
    values_in_order,
)
from r1jax.rewards.equivalence.text import UnreadableError, normalise
from r1jax.rewards.equivalence.units import Unit, split_unit
from r1jax.rewards.equivalence.value import UndecidedError, constant_ratio, exact_value, same_value

_MAX_ITEMS = 40
_SUM_OF_NAMES = re.compile(r"[A-Za-z](?:\s*[-+]?\s*[A-Za-z])+")
_MODULUS = re.compile(r"\s*(?:\\pmod\s*\{?|«\(mod |\((?:«mod»|\\bmod|mod)\s*)(\d+)(?:\)»|\)|\})?$")
_NUMBER_OR_LIST = re.compile(r"-?(?:«[A-Z]+»)?-?\d{1,3}(?:,\d{3})+(?![\d,])[^,]*")
_BASED = re.compile(r"(-?[0-9A-F]+)_\{?(?:«base»)?(\d+|«[^«»]*»)\}?")
_LABEL = re.compile(r"\(?([A-J])\)")
_LABELLED = re.compile(r"[«(]*([A-J])(?:\)»?|[.:]»?\s)\s*(\S.*)", re.DOTALL)
_LONG_WORD = re.compile(r"[^\W\d_]{4}")
_CLOCK = re.compile(r"(\d{1,2})(:\d\d)?([ap])\.?m\.?")
_SYNONYMS = {
    "doesnotexist": "dne", "undefined": "dne", "nosolution": "∅", "nosolutions": "∅", "⦃⦄": "∅", "emptyset": "∅", "theemptyset": "∅",
    "allrealnumbers": "ℝ", "allreals": "ℝ", "thesetofallrealnumbers": "ℝ", "(-∞,∞)": "ℝ", "(-∞,+∞)": "ℝ",
}  # fmt: skip


def equivalent(gold: str, answer: str, *, deep: bool = False) -> bool:
    """Whether ``answer``, extracted from a response, is the reference ``gold``.

    Args:
        deep: compute with irrational numbers, and ask math-verify where this module cannot read the reference's
            mathematics; in a worker process only.

    Raises:
        UndecidedError: not deep, and rational arithmetic does not suffice.
        ValueError: the reference is empty or unreadable.
    """
    try:
        reference = normalise(gold)
    except UnreadableError as error:
        raise ValueError(f"reference answer {gold[:80]!r}: {error}") from error
    if not key_of(reference):
        raise ValueError(f"reference answer {gold[:80]!r} is empty")
    try:
        return _Comparison(deep).same(reference, normalise(answer))
    except (UnreadableError, RecursionError):
        return False


def verify_pair(pair: list[str]) -> bool | str:
    """What a worker runs: whether [reference, answer] mean the same; a text where the reference is at fault."""
    gold, answer = pair
    try:
        return equivalent(gold, answer, deep=True)
    except ValueError as error:
        return str(error)


def key_of(text: str) -> str:
    """A text without what never matters: spaces, word marks, closing punctuation."""
    text = re.sub("«[^«»]*»", lambda words: words.group().casefold(), text)
    key = re.sub(r"(?<!\d)\s+|\s+(?!\d)|[«»]", "", text).rstrip(".,;:")
    folded = key.casefold()
    is_words = re.fullmatch(r"[^\W\d_]+(?:[-,.'’][^\W\d_]+)*", key) and (len(key) > 2 or "«" in text or folded == "no")
    if is_words and (_LONG_WORD.search(key) or not re.search("[-,]", key)):  # "x-y" is not "xy"
        key = re.sub(r"[-,.'’]", "", folded)
    clock = _CLOCK.fullmatch(folded)
    key = f"{clock[1]}{clock[2] or ':00'}{clock[3]}m" if clock else key
    return _SYNONYMS.get(key, key)


class _Comparison:
    """One comparison of a reference with an answer, both normalised."""

    def __init__(self, deep: bool):
        self.deep = deep

    def same(self, gold: str, answer: str) -> bool:
        gold, answer = gold.strip(), answer.strip()
        if not answer:
            return False
        if key_of(gold) == key_of(answer):
            return True
        if _NUMBER_OR_LIST.fullmatch(gold) or _NUMBER_OR_LIST.fullmatch(answer):
            return self.leaf(gold, answer) or self.structure(gold, answer)
        return self.structure(gold, answer)

    def structure(self, gold: str, answer: str) -> bool:
        gold_pieces, pieces = intervals_of(gold), intervals_of(answer)
        if gold_pieces and pieces and not (is_pair(gold) and is_pair(answer)):
            (gold_name, gold_parts), (name, parts) = gold_pieces, pieces
            return (not gold_name or not name or gold_name == name) and self.matched(gold_parts, parts, self.interval)
        golds, answers = items_of(gold), items_of(answer)
        if golds is not None or answers is not None:
            return self.lists(gold, answer, golds, answers)
        gold_sides, gold_signs = sides_of(gold)
        sides, signs = sides_of(answer)
        if gold_signs or signs:
            return self.relations(gold_sides, gold_signs, sides, signs)
        gold_tuple, answer_tuple = sequence_of(gold), sequence_of(answer)
        if gold_tuple or answer_tuple:
            if not (gold_tuple and answer_tuple) or gold_tuple[0] != answer_tuple[0]:
                return False
            return self.in_order(gold_tuple[1], answer_tuple[1])
        if "⟦" in gold or "⟦" in answer:
            gold_rows, rows = matrix_of(gold), matrix_of(answer)
            if gold_rows is None or rows is None:
                return False
            return len(gold_rows) == len(rows) and all(map(self.in_order, gold_rows, rows))
        return self.leaf(gold, answer)

    def in_order(self, golds: Sequence[str], answers: Sequence[str]) -> bool:
        return len(golds) == len(answers) and all(map(self.same, golds, answers))

    def matched(self, golds: Sequence, answers: Sequence, same: Callable[..., bool]) -> bool:
        """Whether each reference has its own equal answer and none is left."""
        if len(golds) != len(answers) or len(golds) > _MAX_ITEMS:
            return False
        left = list(answers)
        for gold in golds:
            place = next((place for place, answer in enumerate(left) if same(gold, answer)), None)
            if place is None:
                return False
            del left[place]
        return True

    def lists(self, gold: str, answer: str, golds: list[str] | None, answers: list[str] | None) -> bool:
        one, other = (sequence_of(text) for text in (gold, answer))
        if golds is None and one and answers:
            return one[0] == "()" and self.in_order(one[1], values_in_order(answers))
        if answers is None and other and golds:
            return other[0] == "()" and self.in_order(values_in_order(golds), other[1])
        golds, answers = golds or [gold], answers or [answer]
        names = [{side[0] for side in map(assignment, items) if side} for items in (golds, answers)]
        is_numbered = (
            not names[0] and len({re.sub(r"_\{?\d\}?$", "", name) for name in names[1]}) == 1
        )  # x_1 = 1, x_2 = 2
        if (len(names[0]) > 1 or len(names[1]) > 1) and names[0] != names[1] and not is_numbered:
            return False
        if gold.startswith("⦃") and answer.startswith("⦃"):
            golds, answers = self.distinct(golds), self.distinct(answers)
        return self.matched(golds, answers, self.same)

    def distinct(self, items: list[str]) -> list[str]:
        kept: list[str] = []
        for item in items[:_MAX_ITEMS]:
            if not any(self.same(other, item) for other in kept):
                kept.append(item)
        return kept

    def relations(self, gold_sides: list[str], gold_signs: list[str], sides: list[str], signs: list[str]) -> bool:
        gold_name, gold_values = named(gold_sides, gold_signs)
        if len(gold_signs) == 1 and re.fullmatch(r"\|[a-z]\|", gold_sides[0]) and not signs:
            return self.same(gold_sides[1], sides[0])
        name, values = named(sides, signs)
        if not gold_signs:
            is_sum = len(values) > 1 and _SUM_OF_NAMES.fullmatch(values[0]) and not DENIAL.search(values[0])
            values = values[1:] if is_sum else values
            return self.chain(gold_sides[0], values, signs)
        if not signs:
            return bool(gold_name) and self.same(gold_values[-1], sides[0])
        if gold_name and gold_name == name:
            return self.chain(gold_values[-1], values, signs[1:])
        if len(gold_signs) != 1 or len(signs) != 1:
            return False
        return self.equations(gold_sides, gold_signs[0], sides, signs[0])

    def chain(self, gold: str, values: list[str], signs: list[str]) -> bool:
        """``values`` joined by = all are the reference; a rounded value behind ≈ must round the one before it."""
        if len(values) == 2 and signs[-1:] == ["≈"]:
            return any(self.same(gold, value) for value in values) and self.is_rounded(*values)
        return set(signs) <= {"=", "≈"} and all(self.same(gold, value) for value in values)

    def is_rounded(self, exact: str, rounded: str) -> bool:
        match = re.fullmatch(r"-?\d*\.(\d+)|-?\d+", rounded)
        if match is None:
            return False
        half = Fraction(1, 2 * 10 ** len(match[1] or ""))
        try:
            error = ("fn", "abs", ("add", read(exact), ("neg", read(rounded))))
            if symbols(error):
                return False
            return (
                constant_ratio(("add", number(half * Fraction(101, 100)), ("neg", error)), number(1), deep=self.deep)
                == 1
            )
        except UnreadableError:
            return False

    def equations(self, gold_sides: list[str], gold_sign: str, sides: list[str], sign: str) -> bool:
        try:
            gold = ("add", read(gold_sides[0]), ("neg", read(gold_sides[1])))
            difference = ("add", read(sides[0]), ("neg", read(sides[1])))
            if "≈" in (sign, gold_sign) or not symbols(gold) or symbols(gold) != symbols(difference):
                return False
            ratio = constant_ratio(gold, difference, deep=self.deep)
        except UnreadableError:
            return False
        if gold_sign in "=≠":
            return ratio != 0 and gold_sign == sign
        return (ratio == 1 and gold_sign == sign) or (ratio == -1 and FLIPPED[gold_sign] == sign)

    def interval(self, gold: Interval, answer: Interval) -> bool:
        return (gold[0], gold[3]) == (answer[0], answer[3]) and self.in_order(gold[1:3], answer[1:3])

    def leaf(self, gold: str, answer: str) -> bool:
        moduli = _MODULUS.search(gold), _MODULUS.search(answer)
        if any(moduli) and not (moduli[0] and moduli[1] and moduli[0][1] != moduli[1][1]):
            return self.same(_MODULUS.sub("", gold), _MODULUS.sub("", answer))
        labelled = _LABELLED.fullmatch(answer)
        if labelled and not gold.startswith("(" + labelled[1]):
            rest = labelled[2].strip(" »")
            if re.fullmatch("[A-J]", gold):
                return gold == labelled[1] and not re.search(r"\([A-J]\)", rest)
            return not _LABELLED.fullmatch(rest) and self.same(gold, rest)
        labels = [_LABEL.fullmatch(key_of(text)) or re.fullmatch("([A-J])", key_of(text)) for text in (gold, answer)]
        if labels[0] and labels[1]:
            return labels[0][1] == labels[1][1]
        based = _BASED.fullmatch(gold)
        if based:
            other = _BASED.fullmatch(answer)
            return based.groups() == other.groups() if other else based[1] == answer
        gold_value, gold_unit = split_unit(gold, is_gold=True)
        value, unit = split_unit(answer, is_gold=False)
        if "∞" in gold_value + value:
            return gold_value.removeprefix("+") == value.removeprefix("+")
        try:
            tree = read(gold_value)
        except UnreadableError:
            return self.odd(gold, answer)
        try:
            return self.quantities(tree, gold_unit, read(value), unit)
        except UnreadableError:
            return False

    def odd(self, gold: str, answer: str) -> bool:
        """A reference that is no plain expression: the same words were the same already; else ask math-verify."""
        if not re.search(r"\\[a-z]+|[\^_=|]", gold) or "«" in gold or re.search(r"(?<!\\)\b[A-Za-z]{4,}", gold):
            return False
        if not self.deep:
            raise UndecidedError
        return math_verify(gold, answer)

    def quantities(self, gold: Node, gold_unit: Unit | None, value: Node, unit: Unit | None) -> bool:
        if gold_unit and unit:
            if gold_unit.powers != unit.powers:
                return False
            gold, value = ("mul", gold, number(gold_unit.size)), ("mul", value, number(unit.size))
        elif gold_unit and gold_unit.is_share:
            return self.share(gold, value)
        elif unit and unit.is_share:
            return self.share(value, gold)
        return same_value(gold, value, deep=self.deep)

    def share(self, percent: Node, plain: Node) -> bool:
        size = exact_value(plain)
        if size is not None and abs(size) >= 1 and size == exact_value(percent):
            return True
        return same_value(("div", percent, number(100)), plain, deep=self.deep)
