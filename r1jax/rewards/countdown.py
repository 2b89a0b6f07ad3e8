r"""Countdown: make the target from the numbers. The answer is read by the equivalence's reader and computed in
fractions.

Allowed are whole numbers, + - * / and round brackets, however they are written (× ÷ −, full-width, ``\times``,
``\frac{a}{b}``); each given number exactly once, no other number. So ``1.5`` is not 1 and 5, and ``7//2``,
``44**19**7``, ``0x10`` and ``1_0`` are nothing at all. ``= 24`` behind the expression is fine if it is the target.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from r1jax.rewards.equivalence.exact import NotRationalError, UndefinedError, rational_value
from r1jax.rewards.equivalence.expression import Node, parse_expression
from r1jax.rewards.equivalence.text import UnreadableError, normalise
from r1jax.rewards.math import final_answers

_MAX_CHARS = 400
_ALLOWED = re.compile(r"(?:[0-9+\-*/()\[\]{} ]|\\frac)+")
_ODD = re.compile(r"(?<!\d)0\d|\d +\d|\d\s*\\frac")
_SIGN = re.compile(r"(?:^|[-+*/(\[{])\s*([-+])")
_RESULT = re.compile(r" *[-+]?[0-9]+(?:\.[0-9]+|/[0-9]+)? *")  # no exponent: 1e999999999 would never end


def accuracy(
    prompts: Sequence[str],
    completions: Sequence[str],
    numbers: Sequence[Sequence[int]],
    target: Sequence[int | float | str],
    stop_reason: Sequence[str] | None = None,
    allow_negation: bool = False,
    **columns: Any,
) -> list[float | Exception]:
    r"""1.0 where the final answer (``<answer>`` or ``\boxed{}``, see ``math.extract``) makes the target, else 0.0.

    Args:
        numbers: [N] the given whole numbers, >= 0.
        target: [N] the number to make.
        allow_negation: a minus sign before an operand is allowed.

    Returns:
        [N] scores, or in place of one a ValueError for numbers or a target that are none.
    """
    answers = final_answers(prompts, completions, stop_reason)
    scores: list[float | Exception] = []
    for made, given, goal in zip(answers, numbers, target, strict=True):
        try:
            checked = [_whole(number) for number in given]
            aim = Fraction(str(goal))
        except (TypeError, ValueError, ZeroDivisionError) as error:
            scores.append(ValueError(f"countdown: numbers {given!r} and target {goal!r}: {error}"))
            continue
        scores.append(float(made is not None and solves(made, checked, aim, allow_negation=allow_negation)))
    return scores


def solves(text: str, numbers: Sequence[int], target: int | Fraction, *, allow_negation: bool = False) -> bool:
    """Whether an expression makes the target of the numbers. Never raises on text, takes a millisecond on any."""
    if len(text) > _MAX_CHARS or re.search("[,;:]", text):
        return False
    try:
        expression, *results = normalise(text).split("=")
        signs = set(_SIGN.findall(expression))
        if len(results) > 1 or not _ALLOWED.fullmatch(expression) or _ODD.search(expression):
            return False
        if signs and not (allow_negation and signs == {"-"}):
            return False
        if results and not (_RESULT.fullmatch(results[0]) and Fraction(results[0].strip()) == target):
            return False
        tree = parse_expression(expression)
        if rational_value(tree, {}) != target:
            return False
    except (UnreadableError, NotRationalError, UndefinedError, RecursionError, ZeroDivisionError):
        return False
    nodes = list(_nodes(tree))
    used = Counter(node[1] for node in nodes if node[0] == "num")
    return used == Counter(numbers) and sum(node[0] == "mul" for node in nodes) == expression.count("*")


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for part in node[1:]:
        if isinstance(part, tuple):
            yield from _nodes(part)


def _whole(number: Any) -> int:
    if isinstance(number, bool) or int(number) != number or number < 0:
        raise ValueError(f"{number!r} is no whole number >= 0")
    return int(number)
