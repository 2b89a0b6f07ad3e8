"""Refuses answers that would make a scorer run code or hang, before the scorer sees them.

Nine of reasoning-gym's scorers hand the model's text to Python's ``eval`` or to ``sympy.parse_expr`` (which evaluates
too), in the scoring process: ``__import__("os").system(...)`` would run and ``9**9**9**9`` would never end. An answer
to one of these data sets is let through only if it is plainly harmless; any other is a wrong answer. So is
``Integral(...)``, an integral left undone, which the scorer of "intermediate_integration" would accept (one in six of
its reference answers is of that kind).
"""

import ast
import re

MAX_ANSWER_CHARS = 2000
_MAX_DEGREE = 64
_MAX_TERMS = 1000

_LITERAL_SCORERS = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
_ARITHMETIC_SCORERS = frozenset({"countdown", "puzzle24"})
_ALGEBRA_SCORERS = frozenset({"simple_integration", "intermediate_integration", "polynomial_multiplication"})

_WORDS = re.compile(r"[\w\s.]*")
_FUNCTIONS = frozenset(
    {"sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "ln", "sqrt"}
)
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div)


def is_safe(answer: str, dataset: str) -> bool:
    """True where reasoning-gym's scorer of ``dataset`` may be given ``answer``."""
    if len(answer) > MAX_ANSWER_CHARS:
        return False
    if dataset in _LITERAL_SCORERS:
        return bool(_WORDS.fullmatch(answer)) or _is_literal(answer)
    if dataset in _ARITHMETIC_SCORERS:
        return _is_expression(answer, algebra=False)
    if dataset in _ALGEBRA_SCORERS:
        return _is_expression(answer, algebra=True)
    return True


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return False
    return True


def _is_expression(text: str, *, algebra: bool) -> bool:
    """True for numbers with + - * / and brackets and, for algebra, one-letter names, known functions, small powers."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
        degree, terms = _size(tree.body, algebra=algebra)
    except (ValueError, SyntaxError, OverflowError, RecursionError, MemoryError):
        return False
    return degree <= _MAX_DEGREE and terms <= _MAX_TERMS


def _size(node: ast.expr, *, algebra: bool) -> tuple[int, int]:
    """Bounds on the degree and on the number of terms after expansion; ValueError for anything not allowed."""
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return 1, 1
        case ast.Name(id=name) if algebra and (len(name) == 1 or name == "pi"):
            return 1, 1
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            return _size(operand, algebra=algebra)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if algebra and name in _FUNCTIONS:
            return _size(argument, algebra=algebra)
        case ast.BinOp(left=left, op=ast.Pow(), right=right) if algebra:
            return _power_size(left, right)
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _ARITHMETIC):
            left_degree, left_terms = _size(left, algebra=algebra)
            right_degree, right_terms = _size(right, algebra=algebra)
            if isinstance(op, ast.Add | ast.Sub):
                return max(left_degree, right_degree), left_terms + right_terms
            return (
                _check(left_degree + right_degree, left_terms * right_terms)
                if algebra
                else (1, left_terms + right_terms)
            )
    raise ValueError(f"{type(node).__name__} is not allowed")


def _power_size(base: ast.expr, exponent: ast.expr) -> tuple[int, int]:
    """Size of a power: to a small number or a ratio (x**(1/2)), or of a single term to an expression (2**x)."""
    base_degree, base_terms = _size(base, algebra=True)
    exponent_degree, exponent_terms = _size(exponent, algebra=True)
    number = _number(exponent)
    if number is not None:
        times = max(1, int(abs(number) + 1) if number != int(number) else int(abs(number)))
        if times > _MAX_DEGREE:
            raise ValueError("exponent too large")
        return _check(base_degree * times, base_terms**times)
    if _has_name(exponent) and base_terms == 1:
        return _check(base_degree + exponent_degree, exponent_terms)
    raise ValueError("exponent not allowed")


def _check(degree: int, terms: int) -> tuple[int, int]:
    if degree > _MAX_DEGREE or terms > _MAX_TERMS:
        raise ValueError("expression too large")
    return degree, terms


def _number(node: ast.expr) -> float | None:
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            number = _number(operand)
            return None if number is None else -number
        case ast.BinOp(
            left=ast.Constant(value=int() as top), op=ast.Div(), right=ast.Constant(value=int() as bottom)
        ) if bottom:
            return top / bottom
    return None


def _has_name(node: ast.expr) -> bool:
    return any(isinstance(child, ast.Name) and child.id not in _FUNCTIONS for child in ast.walk(node))
