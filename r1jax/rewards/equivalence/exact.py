"""Values of expressions in rational arithmetic, with bounds checked before each operation."""

import math
from collections.abc import Mapping
from fractions import Fraction

from r1jax.rewards.equivalence.expression import Node
from r1jax.rewards.equivalence.text import UnreadableError

_MAX_BITS = 32768


class NotRationalError(Exception):
    """The value is no rational number, or rational arithmetic does not find it."""


class UndefinedError(Exception):
    """There is no value: a division by zero, a root or logarithm outside its domain."""


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() > _MAX_BITS or value.denominator.bit_length() > _MAX_BITS:
        raise UnreadableError("a number too large")
    return value


def rational_value(node: Node, point: Mapping[str, Fraction]) -> Fraction:
    """The value where the names are given.

    Raises:
        NotRationalError: it is not rational, or not found to be.
        UndefinedError: there is none.
        UnreadableError: a number grows beyond 32,768 bits.
    """
    match node:
        case ("num", value):
            return value
        case ("sym", name):
            return point[name]
        case ("neg", a):
            return -rational_value(a, point)
        case ("add", a, b):
            return _bounded(rational_value(a, point) + rational_value(b, point))
        case ("mul", a, b):
            return _bounded(rational_value(a, point) * rational_value(b, point))
        case ("div", a, b):
            top, bottom = rational_value(a, point), rational_value(b, point)
            if not bottom:
                raise UndefinedError
            return _bounded(top / bottom)
        case ("pow", a, b):
            return _exact_power(rational_value(a, point), rational_value(b, point))
        case ("fact", a):
            return Fraction(math.factorial(_whole(rational_value(a, point), 3000)))
        case ("binom", a, b):
            return _exact_binomial(rational_value(a, point), rational_value(b, point))
        case ("root", n, a):
            return _exact_root(rational_value(a, point), _whole(rational_value(n, point), 64))
        case ("fn", "abs" | "floor" | "ceil" as name, a):
            return Fraction({"abs": abs, "floor": math.floor, "ceil": math.ceil}[name](rational_value(a, point)))
    raise NotRationalError


def _whole(value: Fraction, most: int) -> int:
    if value.denominator != 1 or value < 0:
        raise NotRationalError
    if value > most:
        raise UnreadableError("a number too large")
    return int(value)


def _exact_binomial(top: Fraction, bottom: Fraction) -> Fraction:
    if top.denominator == 1 and top >= 0:
        return Fraction(math.comb(_whole(top, 3000), _whole(bottom, 3000)))
    value = Fraction(1)
    for step in range(_whole(bottom, 64)):
        value *= (top - step) / (step + 1)
    return _bounded(value)


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        if exponent.denominator > 64 or abs(exponent.numerator) > 64:
            raise NotRationalError
        return _exact_power(_exact_root(base, exponent.denominator), Fraction(exponent.numerator))
    if base == 0 and exponent <= 0:
        raise UndefinedError
    if abs(base) == 1:
        return base if exponent.numerator % 2 else Fraction(1)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent.numerator) > _MAX_BITS + bits:
        raise UnreadableError("a number too large")
    return base**exponent.numerator if base else Fraction(0)


def _exact_root(value: Fraction, degree: int) -> Fraction:
    if degree < 1 or (value < 0 and degree % 2 == 0):
        raise NotRationalError
    roots = [_whole_root(abs(part), degree) for part in (value.numerator, value.denominator)]
    root = Fraction(*roots)
    return -root if value < 0 else root


def _whole_root(value: int, degree: int) -> int:
    if degree == 2:
        root = math.isqrt(value)
    else:
        low, high = 0, 1 << (value.bit_length() // degree + 1)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if middle**degree <= value else (low, middle - 1)
        root = low
    if root**degree != value:
        raise NotRationalError
    return root


def try_rational(node: Node, point: Mapping[str, Fraction]) -> Fraction | None:
    """The value where the names are given, or None."""
    try:
        return rational_value(node, point)
    except (NotRationalError, UndefinedError):
        return None
