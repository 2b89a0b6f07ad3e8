"""Values of expressions to many digits, with mpmath; for worker processes (it takes milliseconds, at worst seconds)."""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from r1jax.rewards.equivalence.exact import Calculator, UndefinedError, try_rational
from r1jax.rewards.equivalence.expression import Node
from r1jax.rewards.equivalence.text import UnreadableError

_MAX_MAGNITUDE = 1000  # decimal digits before or behind the point
_MAX_GAMMA = 100  # of other than whole numbers


def values_of(nodes: Sequence[Node], point: Mapping[str, Fraction], *, is_real: bool) -> tuple[list[Any], Any]:
    """Values with more digits than the largest (or smallest) number on the way has, and what then counts as 0."""
    import mpmath

    with mpmath.workdps(40):
        calculator = _Calculator(point, is_real=is_real)
        for node in nodes:
            calculator.value(node)
        magnitude = calculator.magnitude
    with mpmath.workdps(80 + 2 * magnitude):
        calculator = _Calculator(point, is_real=is_real)
        return [calculator.value(node) for node in nodes], mpmath.mpf(10) ** -(50 + magnitude)


class _Calculator(Calculator):
    """Values with mpmath; keeps the largest decimal magnitude that it meets."""

    def __init__(self, point: Mapping[str, Fraction], *, is_real: bool):
        import mpmath

        super().__init__(point)
        self.mp = mpmath
        self.is_real = is_real
        self.magnitude = 0

    def number(self, value: Fraction) -> Any:
        return self.bounded(self.mp.mpf(value.numerator) / value.denominator)

    def nonzero(self, value: Any) -> Any:
        return super().nonzero(0 if abs(value) <= self.mp.mpf(10) ** (5 - self.mp.mp.dps) else value)

    def bounded(self, value: Any) -> Any:
        if not self.mp.isfinite(value):
            raise UndefinedError
        if not self.is_real and abs(self.mp.im(value)) < self.mp.eps * 1000 * abs(value):
            value = self.mp.re(value)
        if value:
            self._note(self.mp.mag(value) * 0.30103)
        return value

    def _note(self, magnitude: float) -> None:
        if abs(magnitude) > _MAX_MAGNITUDE:
            raise UnreadableError("a number too large")
        self.magnitude = max(self.magnitude, math.ceil(abs(magnitude)))

    def special(self, node: Node) -> Any:
        if node[0] in ("fact", "binom"):
            exact = try_rational(node, self.point)
            if exact is not None:
                return self.number(exact)
        match node:
            case ("const", name):
                return {"π": self.mp.mpf(self.mp.pi), "e": self.mp.mpf(self.mp.e), "i": self.mp.mpc(0, 1)}[name]
            case ("log", base, a):
                return self._log(self.value(a)) / self.nonzero(self._log(self.value(base)))
            case ("fact", a):
                value = self._small(a)
                return self._guard(lambda: self.mp.gamma(value + 1))
            case ("binom", a, b):
                top, bottom = self._small(a), self._small(b)
                return self._guard(lambda: self.mp.binomial(top, bottom))
            case ("fn", name, a):
                return self._function(name, self.value(a))
        raise UnreadableError(f"{node[0]} has no value")

    def _small(self, node: Node) -> Any:
        value = self.value(node)
        if abs(value) > _MAX_GAMMA:
            raise UnreadableError("a number too large")
        return value

    def _guard(self, compute: Callable[[], Any]) -> Any:
        try:
            return compute()
        except (ValueError, ZeroDivisionError, OverflowError) as error:
            raise UndefinedError from error

    def _log(self, value: Any) -> Any:
        self.nonzero(value)
        if self.is_real and value <= 0:
            raise UndefinedError
        return self.mp.log(value)

    def power(self, base: Any, exponent: Node) -> Any:
        degree, rational = self.value(exponent), try_rational(exponent, self.point)
        if not base:
            if not self.mp.re(degree) > 0:
                raise UndefinedError
            return self.mp.mpf(0)
        self._note(float(abs(degree)) * abs(float(self.mp.log(abs(base), 10))))
        if rational is not None and rational.denominator == 1:
            return base**rational.numerator
        if self.is_real and base < 0:
            if rational is None or rational.denominator % 2 == 0:
                raise UndefinedError
            root = (-base) ** degree
            return -root if rational.numerator % 2 else root
        return self.mp.power(base, degree)

    def _function(self, name: str, value: Any) -> Any:
        if name in ("floor", "ceil"):
            nearest = self.mp.nint(value)
            if abs(value - nearest) < self.mp.mpf(10) ** -20:
                return nearest
            return getattr(self.mp, name)(value)
        if name == "abs":
            return abs(value)
        if name == "ln":
            return self._log(value)
        if self.is_real and name in ("asin", "acos") and abs(value) > 1:
            raise UndefinedError
        if name in ("sinh", "cosh"):
            self._note(float(abs(value)) * 0.4343)
        return self._guard(lambda: getattr(self.mp, name)(value))
