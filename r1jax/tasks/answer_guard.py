"""What stands around reasoning-gym's scorers (0.1.25): `is_harmless` before they see an answer, `confirms` behind a
full mark.

Nine of reasoning-gym's scorers hand the model's text to Python's ``eval`` or to ``sympy.parse_expr`` (which evaluates
too), in the scoring process: ``__import__("os").system(...)`` would run and ``9**9**9**9`` would never end. An answer
to one of these data sets is let through only if it is plainly harmless; any other is a wrong answer. So is
``Integral(...)``, an integral left undone, which the scorer of "intermediate_integration" would accept (one in six of
its reference answers is of that kind).

Several pay for wrong answers, which was seen by giving them to every scorer (`tests/tasks/test_logic.py` holds each
case): a 1.0 of theirs is believed only if `confirms` says so.
"""

import ast
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from r1jax.rewards.countdown import solves

_MAX_CHARS = 2000
_MAX_DEGREE = 64
_MAX_TERMS = 1000

_LITERAL_SCORERS = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
_ARITHMETIC_SCORERS = frozenset({"countdown", "puzzle24"})
_ALGEBRA_SCORERS = frozenset({"simple_integration", "intermediate_integration", "polynomial_multiplication"})

_WORDS = re.compile(r"[\w\s.]*")
_ARITHMETIC = re.compile(r"(?:[\d\s.()+-]|\*(?!\*)|/(?!/))*")
_FUNCTIONS = frozenset(
    {"sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "ln", "sqrt"}
)


def is_harmless(answer: str, dataset: str, *, reference: str = "") -> bool:
    """True where reasoning-gym's scorer of ``dataset`` may be given ``answer``.

    It may have 2,000 characters, or twice as many as the reference: the moves of a tower of Hanoi are thousands.
    """
    if len(answer) > max(_MAX_CHARS, 2 * len(reference)):
        return False
    try:
        if dataset in _LITERAL_SCORERS:
            return bool(_WORDS.fullmatch(answer)) or ast.literal_eval(answer.strip()) is not ...
        if dataset in _ARITHMETIC_SCORERS:
            return bool(_ARITHMETIC.fullmatch(answer)) and bool(ast.parse(answer.strip(), mode="eval"))
        if dataset in _ALGEBRA_SCORERS:
            return bool(_size(ast.parse(answer.strip(), mode="eval").body))
    except (ValueError, SyntaxError, TypeError, OverflowError, RecursionError, MemoryError):
        return False
    return True


def _size(node: ast.expr) -> tuple[int, int]:
    """Bounds on an expression's degree and, expanded, its terms.

    ValueError for all but numbers, + - * /, one-letter names, known functions of one argument, and powers: to a small
    number or a ratio (x**(1/2)), or of a single term to an expression (2**x).
    """
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return 1, 1
        case ast.Name(id=name) if len(name) == 1 or name == "pi":
            return 1, 1
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            return _size(operand)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
            return _size(argument)
        case ast.BinOp(left=left, op=op, right=right):
            (left_degree, left_terms), (right_degree, right_terms) = _size(left), _size(right)
            match op:
                case ast.Add() | ast.Sub():
                    degree, terms = max(left_degree, right_degree), left_terms + right_terms
                case ast.Mult() | ast.Div():
                    degree, terms = left_degree + right_degree, left_terms * right_terms
                case ast.Pow() if (times := _exponent(right)) <= _MAX_DEGREE:
                    degree, terms = left_degree * times, left_terms**times
                case ast.Pow() if left_terms == 1 and any(isinstance(part, ast.Name) for part in ast.walk(right)):
                    degree, terms = left_degree + right_degree, right_terms
                case _:
                    raise ValueError("not allowed, or exponent too large")
            if degree <= _MAX_DEGREE and terms <= _MAX_TERMS:
                return degree, terms
    raise ValueError(f"{type(node).__name__} is not allowed, or too large")


def _exponent(node: ast.expr) -> int:
    """How often a power to a number multiplies its base, at least once; too often where it is no number."""
    try:
        return max(1, math.ceil(abs(Fraction(ast.unparse(node).translate(dict.fromkeys(map(ord, " ()")))))))
    except (ValueError, ZeroDivisionError):
        return _MAX_DEGREE + 1


_ONE_ANSWER = frozenset(
    {
        *("coin_flip", "fraction_simplification", "game_of_life_halting", "gsm_symbolic"),
        *("letter_jumble", "spell_backward", "time_intervals"),
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
_NUMBER = re.compile(r"[-+]?[\d,]*\.?\d*(?:e[-+]?\d{1,3}|/\d+)?")  # the fraction 1e999999999 would never end


def confirms(dataset: str, answer: str, reference: str, metadata: Mapping[str, Any]) -> bool:
    """Whether an answer that the scorer of ``dataset`` calls right is right; the other arguments are of the entry."""
    if dataset in _ARITHMETIC_SCORERS:
        target = int(metadata["target"]) if dataset == "countdown" else 24
        return solves(answer, [int(number) for number in metadata["numbers"]], target, allow_negation=True)
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
