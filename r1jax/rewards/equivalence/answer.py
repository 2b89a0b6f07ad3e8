r"""Are two written answers the same? Lists, sets, intervals, tuples, matrices, equations, units, words; ``value`` does
the rest.

The rules, where mathematics leaves a choice:

- Exact: ``0.33`` is not ``1/3``, ``1.41`` is not ``\sqrt{2}``; ``0.5`` is ``1/2``.
- A list ("1, 2", "1 and 2", ``\pm 1``) has no order, a tuple has. A set may be written as a list, a tuple may not. An
  answer of several values is never the answer to a reference of one.
- ``x = 5`` is the answer ``5`` and the other way round, but ``x = 1`` is not ``y = 1``; in a chain ``x = 2 + 3 = 5``
  every side must be right. Equations are the same if the differences of their sides are in a constant ratio other than
  0.
- A sum of names may be named (``m + n = 13`` is ``13``), a modulus may be left out or added.
- A unit may be left out or added; two units must measure the same (``100 cm`` is ``1 m``). ``50%`` is ``0.5``, and
  ``50`` too: the sign may be left out or added where the number is at least 1.
- Inequalities in one variable are the intervals that they describe. An open interval and a pair are written alike.
- A reference with a number base (``1010_2``) may be given without it.
- A ratio ``3:4`` is the quotient ``3/4``, but ``6:8`` is another ratio. A time of day without its half is no time of
  day.
- Parts (``(1) 4; (2) 9``, ``maximum 5, minimum -3``) are compared by their labels; arbitrary constants may have other
  names.
- Words are compared without regard to case and punctuation. Letters side by side are a product only in algebra
  (``2abc``) or where they look like variables (``abc``, ``mgh``); capitals (``HTT``, ``SAS``, ``IV``) and what may be a
  word keep their order. Options have none: ``ABD`` is ``D, A, B``; but letters out of order (``BADC``) are a sequence.
- The domain of a parameter (``kπ, k∈ℤ``) may be left out or added; the parameter may have another name or start
  elsewhere.
- Of ``\sqrt{3} ≈ 1.732`` and ``3/4 (75%)`` as references either part will do; as answers both must hold.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

from r1jax.rewards.equivalence import structure
from r1jax.rewards.equivalence.expression import Node, literal, parse_expression, symbols
from r1jax.rewards.equivalence.notations import in_base, moment, parts, reaction
from r1jax.rewards.equivalence.reals import FLIPPED, reals_of, same_reals
from r1jax.rewards.equivalence.second_opinion import math_verify
from r1jax.rewards.equivalence.text import UnreadableError, normalise, split_top
from r1jax.rewards.equivalence.units import Unit, compound, split_unit
from r1jax.rewards.equivalence.value import UndecidedError, constant_ratio, exact_value, same_value
from r1jax.rewards.equivalence.words import key_of, same_letters, same_options

_MAX_ITEMS = 40
_SUM_OF_NAMES = re.compile(r"[A-Za-z](?:\s*[-+]?\s*[A-Za-z])+")
_MODULUS = re.compile(r"\s*(?:\\pmod\s*\{?|«\(mod |\((?:«mod»|\\bmod|mod)\s*)(\d+)(?:\)»|\)|\})?$")
_NUMBER_OR_LIST = re.compile(r"-?(?:«[A-Z]+»)?-?\d{1,3}(?:,\d{3})+(?![\d,])[^,]*")
_LABEL = re.compile(r"[(«]*([A-J])[)».:]*")
_LABELLED = re.compile(r"[«(]*([A-J])(?:\)»?|[.:]»?\s)\s*(\S.*)", re.DOTALL)
_POINT = re.compile(r"([A-Z])'*\s*(\(.*,.*\))", re.DOTALL)
_LABELS = re.compile(r"(?:[\s,;]|and|or|\(?[A-J]\)?)+")
_SHIFTS = ("{}", "(-{})", "({}+1)", "({}-1)", "({}+2)", "({}-2)", "(-{}+1)", "(-{}-1)")
_FUNCTION = re.compile(r"([A-Za-z])\(([a-z])\)")
_HAS_NOTATION = re.compile(r"[A-Z:«]|(?<![\\a-z])[a-z]{3}|\d ?[ap]m|\([1-9a-eiv]+\)|\\max")
_STEP = re.compile(r"…|⟦|\\(?:sum|int|lim|prod)(?![a-z])")
_UNIT_VECTOR = re.compile(r"\\hat\{[ijk]\}")


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
        texts = [reference, normalise(answer)]
        if "«GBP»" in "".join(texts):
            texts = [re.sub(r"\bpounds?\b", "GBP", text) for text in texts]  # else they are a weight
        return _Comparison(deep).same(*texts)
    except (UnreadableError, RecursionError):
        return False


def verify_pair(pair: list[str]) -> bool | str:
    """What a worker runs: whether [reference, answer] mean the same; a text where the reference is at fault."""
    gold, answer = pair
    try:
        return equivalent(gold, answer, deep=True)
    except ValueError as error:
        return str(error)


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
        if (_NUMBER_OR_LIST.fullmatch(gold) or _NUMBER_OR_LIST.fullmatch(answer)) and self.leaf(gold, answer):
            return True
        meaning = (self.sets, self.lists, self.relations, self.rows)
        for rule in (self.notations, self.compounds, self.labels, self.domains, self.two_ways, *meaning):
            verdict = rule(gold, answer)
            if verdict is not None:
                return verdict
        return self.leaf(gold, answer)

    def in_order(self, golds: Sequence[str], answers: Sequence[str]) -> bool:
        return len(golds) == len(answers) and all(map(self.same, golds, answers))

    def matched(self, golds: Sequence[str], answers: Sequence[str]) -> bool:
        """Whether each reference has its own equal answer and none is left."""
        if len(golds) != len(answers) or len(golds) > _MAX_ITEMS:
            return False
        left = list(answers)
        for gold in golds:
            index = next((index for index, answer in enumerate(left) if self.same(gold, answer)), None)
            if index is None:
                return False
            del left[index]
        return True

    # The rules: whether the two are the same; None where a rule has nothing to say.

    def notations(self, gold: str, answer: str) -> bool | None:
        """Dates, times of day, chemical formulas, labelled parts, ratios."""
        if not _HAS_NOTATION.search(gold + " " + answer):
            return None
        moments = moment(gold), moment(answer)
        if all(moments):
            return moments[0] == moments[1]
        formulas = reaction(gold), reaction(answer)
        if formulas[0] and formulas[1] and (formulas[0] == formulas[1] or "\\to" in gold):
            return formulas[0] == formulas[1]
        lists = [structure.items_of(re.sub(r"«\s*,\s*", ", «", text)) or [] for text in (gold, answer)]
        golds, answers = map(parts, (gold, answer), lists)
        if golds and answers:
            return golds.keys() == answers.keys() and all(self.same(golds[label], answers[label]) for label in golds)
        if golds and next(iter(golds)) in "1ai" and not any(map(structure.items_of, golds.values())):
            return self.in_order([*golds.values()], lists[1])
        return self.ratios(*(split_top(text, re.compile(":")) for text in (gold, answer)))

    def ratios(self, golds: list[str], answers: list[str]) -> bool | None:
        """``3:4`` is the quotient ``3/4``; ``3:45`` may be a time."""
        if len(golds) > 1 < len(answers):
            return self.in_order(golds, answers) if "=" not in "".join(golds + answers) and len(golds) > 2 else None
        ratio, value = (golds, answers[0]) if len(golds) > 1 else (answers, golds[0])
        is_value = "\\frac" in value or "/" in value or (ratio is golds and "." not in value)
        if "=" in value or len(ratio) != 2 or re.fullmatch(r"[0-5]\d", ratio[1]) or not is_value:
            return None
        return self.same(value, f"({ratio[0]})/({ratio[1]})") or None

    def compounds(self, gold: str, answer: str) -> bool | None:
        """``5 ft 6 in``."""
        sums = [compound(text) for text in (gold, answer)]
        if not any(sums):
            return None
        (value, unit), (other, other_unit) = (
            found or split_unit(text, is_gold=False) for found, text in zip(sums, (gold, answer), strict=True)
        )
        if unit is None or other_unit is None:
            return False
        return self.quantities(parse_expression(value), unit, parse_expression(other), other_unit)

    def labels(self, gold: str, answer: str) -> bool | None:
        """Options: ``(B)``, ``(B) 42``, ``D. Both A and B``."""
        letters = [_LABEL.fullmatch(text) for text in (gold, answer)]
        if letters[0] and letters[1]:
            return letters[0][1] == letters[1][1]
        labelled = [_LABELLED.fullmatch(text) for text in (gold, answer)]
        for letter, whole, other in ((letters[0], labelled[1], gold), (letters[1], labelled[0], answer)):
            if whole is None:
                continue
            rest = whole[2].strip(" »")
            if letter:
                return letter[1] == whole[1] and not re.search(r"\([A-J]\)|^[A-J]\b|^(?:or|and)\b", rest)
            if not other.startswith("(" + whole[1]) and not _LABELS.fullmatch(rest):
                return not _LABELLED.fullmatch(rest) and self.same(
                    *((rest, other) if other is answer else (other, rest))
                )
        return None

    def domains(self, gold: str, answer: str) -> bool | None:
        """``kπ, k∈ℤ``: the parameter may have another name, and count from elsewhere; so do constants and indices of sums."""
        (gold, domain), (answer, other) = structure.without_domain(gold), structure.without_domain(answer)
        if not domain and not other:
            names = structure.other_names(gold, answer)
            return any(self.same(gold, text) for text in names) if names else None
        if not (domain and other):
            return self.same(gold, answer)
        if domain[1] != other[1] or structure.without_domain(gold)[1] or structure.without_domain(answer)[1]:
            return False
        name, is_short = domain[0], len(structure.items_of(answer) or []) <= 4
        shifts = _SHIFTS if domain[1] == "ℤ" and is_short else _SHIFTS[:1]
        return any(self.same(gold, structure.renamed(answer, other[0], shift.format(name))) for shift in shifts)

    def two_ways(self, gold: str, answer: str) -> bool | None:
        """``3/4 (75%)``: as a reference either will do, as an answer both must be right."""
        both = structure.restated(gold)
        if both and (self.same(*both) or self.is_rounded(*both)):
            return self.same(both[0], answer) or self.same(both[1], answer)
        both = structure.restated(answer)
        if both and self.same(gold, both[0]) and (self.same(gold, both[1]) or self.is_rounded(*both)):
            return True
        return None

    def sets(self, gold: str, answer: str) -> bool | None:
        """Sets of real numbers, unless both are written as pairs."""
        if structure.sequence_of(gold) and structure.sequence_of(answer):
            return None
        found, other = reals_of(gold), reals_of(answer)
        if not found or not other:
            return None
        if found[0] and other[0] and found[0] != other[0]:
            return None
        try:
            return same_reals(found[1], other[1], deep=self.deep)
        except UnreadableError:
            return None

    def lists(self, gold: str, answer: str) -> bool | None:
        for sign in "∧∨":
            parts = [split_top(text, re.compile(sign)) for text in (gold, answer)]
            if len(parts[0]) > 1 or len(parts[1]) > 1:
                return self.matched(*parts)
        golds, answers = structure.items_of(gold), structure.items_of(answer)
        for items, text in ((golds, gold), (answers, answer)):  # A ∪ B = {1, 2}
            value = structure.assignment(text) if items is None else None
            if value and "=" not in (answer if text is gold else gold):
                return self.same(value[1], answer) if text is gold else self.same(gold, value[1])
        verdict = same_options(gold, golds, answer, answers)
        if verdict is not None or (golds is None and answers is None):
            return verdict
        if golds and len(golds) == 1 and gold[0] == "⦃":
            return self.same(golds[0], answer)
        one, other = (structure.sequence_of(text) for text in (gold, answer))
        if golds is None and one and answers:
            return one[0] == "()" and self.in_order(one[1], structure.values_in_order(answers))
        if answers is None and other and golds:
            return other[0] == "()" and self.in_order(structure.values_in_order(golds), other[1])
        golds, answers = golds or [gold], answers or [answer]
        names = [{side[0] for side in map(structure.assignment, items) if side} for items in (golds, answers)]
        bases = {re.sub(r"_\{?\d\}?$", "", name) for name in names[0] | names[1]}
        if names[0] != names[1] and max(map(len, names)) > 1:
            if len(bases) > 1 or (all(names) and not bases & (names[0] | names[1])):
                return False
            golds, answers = (
                [(structure.assignment(item) or ("", item))[1] for item in items] for items in (golds, answers)
            )
            if bases != {"x"}:
                return self.in_order(golds, answers)  # a_1 = 1, a_2 = 2; the order of x_1 and x_2 means nothing
        if gold.startswith("⦃") and answer.startswith("⦃"):
            golds, answers = self.distinct(golds), self.distinct(answers)
        return self.matched(golds, answers)

    def distinct(self, items: list[str]) -> list[str]:
        kept: list[str] = []
        for item in items[:_MAX_ITEMS]:
            if not any(self.same(other, item) for other in kept):
                kept.append(item)
        return kept

    def relations(self, gold: str, answer: str) -> bool | None:
        gold_sides, gold_signs = structure.sides_of(gold)
        sides, signs = structure.sides_of(answer)
        if not gold_signs and not signs:
            return None
        if max(len(gold_signs), len(signs)) > _MAX_ITEMS:
            return False
        gold_name, gold_values = structure.named(gold_sides, gold_signs)
        if gold_signs == ["="] and re.fullmatch(r"\|[a-z]\|", gold_sides[0]) and not signs:
            return self.same(gold_sides[1], sides[0])
        name, values = structure.named(sides, signs)
        entries = structure.entries_of(gold) or []
        if 1 < len(entries) == len(signs) == len({*sides[:-1]}) and re.fullmatch(
            "(?:[a-z]=)+", "=".join(sides[:-1]) + "="
        ):
            return self.chain(sides[-1], entries, ["="])  # x = y = 0
        if not gold_signs:
            is_sum = len(values) > 1 and _SUM_OF_NAMES.fullmatch(values[0]) and not structure.DENIAL.search(values[0])
            values = values[1:] if is_sum else values
            return self.chain(gold_sides[0], values, signs)
        if "≈" in gold_signs and set(gold_signs) <= {"=", "≈"}:
            if signs and gold_name != name:
                return False
            return any(self.chain(value, values, signs[len(sides) - len(values) :]) for value in gold_values)
        if not signs:
            is_sum = len(gold_sides) == 2 and gold_signs == ["="] and self.same(*gold_sides)  # C_6^3 = 20
            return (bool(gold_name) or is_sum) and self.same(gold_values[-1], sides[0])
        function, other = _FUNCTION.fullmatch(gold_name or ""), _FUNCTION.fullmatch(name or "")
        if function and other and function[1] == other[1] and function[2] not in values[-1]:  # f(t) = t^2 is f(x) = x^2
            name, values = gold_name, [structure.renamed(value, other[2], function[2]) for value in values]
        if gold_name and name and gold_name != name and re.sub(r"\(x\)$", "", name) == re.sub(r"\(x\)$", "", gold_name):
            name = gold_name  # y(x) = x is y = x
        if gold_name and gold_name == name:
            golds, values = (
                [re.sub("^[a-z]{2,3}$", r"(\g<0>)", value) for value in side] for side in (gold_values, values)
            )
            return self.chain(golds[-1], values, signs[1:])  # the letters of F = ma are a product
        if len(gold_signs) != 1 or len(signs) != 1:
            return False
        return self.equations(gold_sides, gold_signs[0], sides, signs[0])

    def chain(self, gold: str, values: list[str], signs: list[str]) -> bool:
        """``values`` joined by = all are the reference; a rounded value behind ≈ must round the one before it.

        Before the last one may stand what is not computed here (``1+2+…+n``, determinants, integrals), and ``6:8``.
        """
        if set(signs) == {"="} and len(values) > 1:
            steps = [step.replace(":", "/") if gold.count(":") == 1 else step for step in values[:-1]]
            values = [*(step for step in steps if not _STEP.search(step)), values[-1]]
        if len(values) == 2 and signs[-1:] == ["≈"]:
            return any(self.same(gold, value) for value in values) and self.is_rounded(*values)
        return set(signs) <= {"=", "≈"} and all(self.same(gold, value) for value in values)

    def is_rounded(self, exact: str, rounded: str) -> bool:
        match = re.fullmatch(r"-?\d*\.(\d+)|-?\d+", rounded)
        if match is None:
            return False
        half = literal(Fraction(1, 2 * 10 ** len(match[1] or "")))
        try:
            more = ("add", parse_expression(rounded), ("neg", parse_expression(exact)))
            more = ("neg", more) if rounded.startswith("-") else more  # half a unit is rounded up
            rooms = (
                ("add", ("mul", half, literal(Fraction(101, 100))), ("neg", more)),
                ("add", ("mul", half, literal(Fraction(99, 100))), more),
            )
            return not symbols(more) and all(constant_ratio(room, literal(1), deep=self.deep) == 1 for room in rooms)
        except UnreadableError:
            return False

    def equations(self, gold_sides: list[str], gold_sign: str, sides: list[str], sign: str) -> bool:
        try:
            gold, difference = (
                ("add", parse_expression(one), ("neg", parse_expression(other))) for one, other in (gold_sides, sides)
            )
            if "≈" in (sign, gold_sign) or not symbols(gold) or symbols(gold) != symbols(difference):
                return False
            ratio = constant_ratio(gold, difference, deep=self.deep)
        except UnreadableError:
            return False
        if gold_sign in "=≠":
            return ratio != 0 and gold_sign == sign
        return (ratio == 1 and gold_sign == sign) or (ratio == -1 and FLIPPED[gold_sign] == sign)

    def rows(self, gold: str, answer: str) -> bool | None:
        """Tuples, intervals, matrices, sums of unit vectors."""
        points = _POINT.fullmatch(gold), _POINT.fullmatch(answer)
        if any(points) and not (points[0] and points[1] and points[0][1] != points[1][1]):
            gold, answer = (point[2] if point else text for point, text in zip(points, (gold, answer), strict=True))
        one, other = structure.sequence_of(gold), structure.sequence_of(answer)
        if one and other:
            return one[0] == other[0] and self.in_order(one[1], other[1])
        gold_rows, rows = structure.matrix_of(gold), structure.matrix_of(answer)
        if gold_rows and rows:
            return len(gold_rows) == len(rows) and all(map(self.in_order, gold_rows, rows))
        if _UNIT_VECTOR.search(gold) or _UNIT_VECTOR.search(answer):
            gold, answer = map(self.in_unit_vectors, (gold, answer))
            return self.leaf(gold, answer)
        if not one and not other and "⟦" not in gold + answer:
            return None
        golds, answers = structure.entries_of(gold), structure.entries_of(answer)
        return self.in_order(golds, answers) if golds and answers else False

    def in_unit_vectors(self, text: str) -> str:
        entries = structure.entries_of(text)
        if entries:
            return "+".join(f"({entry})*\\hat{{{name}}}" for name, entry in zip("ijk", entries, strict=False))
        return (
            text
            if _UNIT_VECTOR.search(text) or not re.search("[jk]", text)
            else re.sub(r"(?<![A-Za-z\\])([ijk])(?![A-Za-z])", r"\\hat{\1}", text)
        )

    def leaf(self, gold: str, answer: str) -> bool:
        moduli = _MODULUS.search(gold), _MODULUS.search(answer)
        if any(moduli) and not (moduli[0] and moduli[1] and moduli[0][1] != moduli[1][1]):
            return self.same(_MODULUS.sub("", gold), _MODULUS.sub("", answer))
        based, other = in_base(gold), in_base(answer)
        if based and (other or "_" in gold):
            return based == other or (other is None and based[0] == answer)
        verdict = same_letters(gold, answer)
        if verdict is not None:
            return verdict
        (gold_value, gold_unit), (value, unit) = split_unit(gold, is_gold=True), split_unit(answer, is_gold=False)
        if gold_unit and not gold_unit.is_sure and not unit:
            gold_value, gold_unit = gold, None
        if unit and not unit.is_sure and not gold_unit:
            value, unit = answer, None
        infinity = re.compile(r"[-+]?∞")
        if infinity.fullmatch(gold_value) or infinity.fullmatch(value):
            return gold_value.removeprefix("+") == value.removeprefix("+")
        try:
            tree = parse_expression(gold_value)
        except UnreadableError:
            return self.odd(gold, answer)
        try:
            if self.quantities(tree, gold_unit, parse_expression(value), unit):
                return True
            if "°" in gold + answer:
                is_other = "π" in (gold if "°" in answer else answer)  # 60° and π/3
            else:
                is_other = (gold_unit or unit) and not re.search("[«%]", gold + answer)  # "2π hr" may be a product
            return bool(is_other) and same_value(parse_expression(gold), parse_expression(answer), deep=self.deep)
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
            gold, value = ("mul", gold, literal(gold_unit.size)), ("mul", value, literal(unit.size))
        elif gold_unit and gold_unit.is_share:
            return self.share(gold, value)
        elif unit and unit.is_share:
            return self.share(value, gold)
        return same_value(gold, value, deep=self.deep)

    def share(self, percent: Node, plain: Node) -> bool:
        size = exact_value(plain)
        if size is not None and abs(size) >= 1 and size == exact_value(percent):
            return True
        return same_value(("div", percent, literal(100)), plain, deep=self.deep)
