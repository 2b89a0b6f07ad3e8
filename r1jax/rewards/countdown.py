"""Countdown: make the target from the numbers. The answer is read as a syntax tree and computed in fractions; never ``eval``.

Allowed are whole numbers, + - * / and round brackets; each given number exactly once, no other number.
So ``1.5`` is not 1 and 5, and ``7//2``, ``44**19**7``, ``0x10`` and ``1_0`` are nothing at all. The signs × ÷ − ·, full-width
characters, ``\\times``, ``\\div`` and ``\\frac{a}{b}`` are read as what they mean, and ``= 24`` behind the expression is fine
if it is the target.
"""

import ast
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from r1jax.rewards.math import final_answers

_MAX_CHARS = 400
_MAX_DIGITS = 12
_MAX_DEPTH = 40
_ALLOWED = re.compile(r"[0-9+\-*/() ]+")
_RESULT = re.compile(r" *[-+]?[0-9]+(?:\.[0-9]+|/[0-9]+)? *")  # no exponent: 1e999999999 would never end
_SIGNS = str.maketrans(
    {
        **{chr(0xFF01 + offset): chr(0x21 + offset) for offset in range(94)},
        **dict.fromkeys("×·⋅∙", "*"),
        **dict.fromkeys("÷∕⁄", "/"),
        **dict.fromkeys("−–—", "-"),
        **dict.fromkeys("[{", "("),
        **dict.fromkeys("]}", ")"),
        **dict.fromkeys("\u3000\u00a0\n\t", " "),
    }
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_COMMANDS = {r"\times": "*", r"\cdot": "*", r"\div": "/", r"\left": "", r"\right": ""}
_COMMANDS |= {r"\,": " ", r"\;": " ", r"\ ": " "}
_OPERATIONS = {ast.Add: "__add__", ast.Sub: "__sub__", ast.Mult: "__mul__", ast.Div: "__truediv__"}


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
    """Whether an expression makes the target of the numbers. Never raises on text, takes microseconds on any."""
    if len(text) > _MAX_CHARS:
        return False
    expression, *results = _plain(text).split("=")
    if len(results) > 1 or not _ALLOWED.fullmatch(expression) or "**" in expression or "//" in expression:
        return False
    try:
        if results and not (_RESULT.fullmatch(results[0]) and Fraction(results[0].strip()) == target):
            return False
        tree = ast.parse(expression.strip(), mode="eval").body
        used: Counter[int] = Counter()
        if _value(tree, used, depth=0, allow_negation=allow_negation) != target:
            return False
    except (ValueError, SyntaxError, ZeroDivisionError, RecursionError, MemoryError):
        return False
    return used == Counter(numbers)


def _whole(number: Any) -> int:
    if isinstance(number, bool) or int(number) != number or number < 0:
        raise ValueError(f"{number!r} is no whole number >= 0")
    return int(number)


def _plain(text: str) -> str:
    text = text.strip().strip("$").strip().removeprefix(r"\(").removesuffix(r"\)").removesuffix(".")
    count = 1
    while count:  # from the inside out
        text, count = _FRACTION.subn(r"((\1)/(\2))", text)
    for command, sign in _COMMANDS.items():
        text = text.replace(command, sign)
    return text.translate(_SIGNS)


def _value(node: ast.expr, used: Counter[int], *, depth: int, allow_negation: bool) -> Fraction:
    if depth > _MAX_DEPTH:
        raise ValueError("too deep")
    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool) and len(str(value)) <= _MAX_DIGITS:
            used[value] += 1
            return Fraction(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand) if allow_negation:
            return -_value(operand, used, depth=depth + 1, allow_negation=allow_negation)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            one, other = (_value(part, used, depth=depth + 1, allow_negation=allow_negation) for part in (left, right))
            return getattr(one, _OPERATIONS[type(op)])(other)
    raise ValueError(f"{type(node).__name__} is not allowed")
