"""Values of expressions, in rational arithmetic with bounds checked before each operation; ``numeric`` has the other one."""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from r1jax.rewards.equivalence.expression import Node
from r1jax.rewards.equivalence.text import UnreadableError

_MAX_BITS = 32768


class NotRationalError(Exception):
    """The value is no rational number, or rational arithmetic does not find it."""


class UndefinedError(Exception):
    """There is no value: a division by zero, a root or logarithm outside its domain."""


class Calculator:
    """The values of trees where the names are given."""

    def __init__(self, point: Mapping[str, Fraction]):
        self.point = point

    def value(self, node: Node) -> Any:
        match node:
            case ("num", value):
                return self.number(value)
            case ("sym", name):
                return self.number(self.point[name])
            case ("neg", a):
                return -self.value(a)
            case ("add", a, b):
                return self.bounded(self.value(a) + self.value(b))
            case ("mul", a, b):
                return self.bounded(self.value(a) * self.value(b))
            case ("div", a, b):
                return self.bounded(self.value(a) / self.nonzero(self.value(b)))
            case ("pow", a, b):
                return self.bounded(self.power(self.value(a), b))
        return self.bounded(self.special(node))

    def number(self, value: Fraction) -> Any:
        return value

    def nonzero(self, value: Any) -> Any:
        if not value:
            raise UndefinedError
        return value

    def bounded(self, value: Any) -> Any:
        if value.numerator.bit_length() > _MAX_BITS or value.denominator.bit_length() > _MAX_BITS:
            raise UnreadableError("a number too large")
        return value

    def power(self, base: Any, exponent: Node) -> Any:
        return _power(base, self.value(exponent))

    def special(self, node: Node) -> Any:
        match node:
            case ("fact", a):
                return Fraction(math.factorial(_whole(self.value(a), 3000)))
            case ("binom", a, b):
                return self.binomial(self.value(a), self.value(b))
            case ("fn", "abs" | "floor" | "ceil" as name, a):
                return Fraction({"abs": abs, "floor": math.floor, "ceil": math.ceil}[name](self.value(a)))
        raise NotRationalError

    def binomial(self, top: Fraction, bottom: Fraction) -> Fraction:
        if top.denominator == 1 and top >= 0:
            return Fraction(math.comb(_whole(top, 3000), _whole(bottom, 3000)))
        value = Fraction(1)
        for step in range(_whole(bottom, 64)):
            value *= (top - step) / (step + 1)
        return value


def rational_value(node: Node, point: Mapping[str, Fraction]) -> Fraction:
    """The value where the names are given.

    Raises:
        NotRationalError: it is not rational, or not found to be.
        UndefinedError: there is none.
        UnreadableError: a number grows beyond 32,768 bits.
    """
    return Calculator(point).value(node)


def try_rational(node: Node, point: Mapping[str, Fraction]) -> Fraction | None:
    """The value where the names are given, or None."""
    try:
        return rational_value(node, point)
    except (NotRationalError, UndefinedError):
        return None


def _whole(value: Fraction, most: int) -> int:
    if value.denominator != 1 or value < 0:
        raise NotRationalError
    if value > most:
        raise UnreadableError("a number too large")
    return int(value)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        if exponent.denominator > 64 or abs(exponent.numerator) > 64 or (base < 0 and exponent.denominator % 2 == 0):
            raise NotRationalError
        root = Fraction(*(_whole_root(abs(part), exponent.denominator) for part in (base.numerator, base.denominator)))
        return _power(-root if base < 0 else root, Fraction(exponent.numerator))
    if base == 0 and exponent <= 0:
        raise UndefinedError
    if abs(base) == 1:
        return base if exponent.numerator % 2 else Fraction(1)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent.numerator) > _MAX_BITS + bits:
        raise UnreadableError("a number too large")
    return base**exponent.numerator if base else Fraction(0)


def _whole_root(value: int, degree: int) -> int:
    low, high = (math.isqrt(value),) * 2 if degree == 2 else (0, 1 << (value.bit_length() // degree + 1))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= value else (low, middle - 1)
    if low**degree != value:
        raise NotRationalError
    return low
