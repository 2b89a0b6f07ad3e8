"""Are two expressions identical? Exactly where all is rational, else by values to many digits at many points.

Nothing is simplified, so nothing can run away: sizes are bounded before each operation. Two expressions without names
are equal if their values are; expressions with names if they agree at every tried point where both have a value
(positive, negative, small and large ones). A value that is infinite or no number equals nothing.

``deep=False`` refuses, with ``UndecidedError``, what rational arithmetic does not decide: that is for a worker process.
"""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from r1jax.rewards.equivalence.exact import NotRationalError, UndefinedError, rational_value, try_rational
from r1jax.rewards.equivalence.expression import Node, has_i, symbols
from r1jax.rewards.equivalence.numeric import values_of
from r1jax.rewards.equivalence.text import UnreadableError

NEEDED_POINTS = 3
_SMALL_POINTS = 5  # the first ones, at which nothing may be too large to compute


class UndecidedError(Exception):
    """Rational arithmetic does not decide; ask a worker."""


def same_value(first: Node, second: Node, *, deep: bool) -> bool:
    """Whether two expressions are identical. Where the first is of ln|x|, the second must have values wherever it has.

    Raises:
        UndecidedError: not deep, and more than rational arithmetic is needed.
        UnreadableError: a number grows beyond the bounds (32,768 bits if rational, else 1,000 digits).
    """
    found = 0
    for pair in _value_pairs(first, second, deep=deep):
        if not _close(pair):
            return False
        found += 1
    if found < (NEEDED_POINTS if symbols(first) | symbols(second) else 1):
        return False
    return not _has_log_of_size(first) or _has_values_where(first, second)


def constant_ratio(first: Node, second: Node, *, deep: bool) -> int:
    """The sign (1, -1; 2 for a complex one) of first / second where it is a constant other than 0, else 0."""
    pairs = [pair for pair in _value_pairs(first, second, deep=deep) if not (_is_zero(pair, 0) and _is_zero(pair, 1))]
    needed = NEEDED_POINTS if symbols(first) | symbols(second) else 1
    if len(pairs) < needed or any(_is_zero(pair, 0) or _is_zero(pair, 1) for pair in pairs):
        return 0
    a, b, _ = pairs[0]
    if not all(_close((x * b, y * a, tolerance * (1 + abs(a) + abs(b)))) for x, y, tolerance in pairs):
        return 0
    ratio = a / b
    return 2 if getattr(ratio, "imag", 0) else (1 if ratio > 0 else -1)


def ranks(nodes: Sequence[Node], point: Mapping[str, Fraction], *, deep: bool) -> list[int] | None:
    """The place of each real value in their order, equal ones in the same; None where one has no value at the point.

    Raises:
        UndecidedError, UnreadableError: as ``same_value``.
    """
    values: Sequence[Any]
    try:
        values, tolerance = [rational_value(node, point) for node in nodes], 0
    except UndefinedError:
        return None
    except NotRationalError:
        if not deep:
            raise UndecidedError from None
        try:
            values, tolerance = values_of(nodes, point, is_real=True)
        except UndefinedError:
            return None
    distinct: list[Any] = []
    for value in sorted(values):
        if not distinct or value - distinct[-1] > tolerance:
            distinct.append(value)
    return [sum(other < value - tolerance for other in distinct) for value in values]


def exact_value(node: Node) -> Fraction | None:
    """The value of a rational expression without names; None for any other."""
    return None if symbols(node) else try_rational(node, {})


def _has_log_of_size(node: Node, *, is_inside: bool = False) -> bool:
    """Whether a logarithm is taken of an absolute value of names: whoever wrote it minds the negative ones."""
    if is_inside and node[:2] == ("fn", "abs"):
        return bool(symbols(node))
    is_inside = is_inside or node[0] == "log" or node[:2] == ("fn", "ln")
    return any(_has_log_of_size(part, is_inside=is_inside) for part in node[1:] if isinstance(part, tuple))


def _has_values_where(first: Node, second: Node) -> bool:
    """Whether the second expression has a real value at every tried point where the first has one."""
    for point in itertools.islice(sample_points(sorted(symbols(first) | symbols(second))), _SMALL_POINTS):
        try:
            values_of([first], point, is_real=True)
        except UndefinedError:
            continue
        try:
            values_of([second], point, is_real=True)
        except UndefinedError:
            return False
    return True


_Pair = tuple[Any, Any, Any]  # two values and the difference below which they are the same


def _close(pair: _Pair) -> bool:
    first, second, tolerance = pair
    return bool(abs(first - second) <= tolerance)


def _is_zero(pair: _Pair, place: int) -> bool:
    return bool(abs(pair[place]) <= pair[2])


def _value_pairs(first: Node, second: Node, *, deep: bool) -> Iterator[_Pair]:
    names = sorted(symbols(first) | symbols(second))
    needed, found = (NEEDED_POINTS if names else 1), 0
    modes = ["complex"] if has_i(first) or has_i(second) else ["exact", "real", "complex"]
    for mode in modes:
        if mode != "exact" and not deep:
            raise UndecidedError
        is_complete = True
        for place, point in enumerate(sample_points(names)):
            try:
                if mode == "exact":
                    pair = rational_value(first, point), rational_value(second, point), 0
                else:
                    (one, other), tolerance = values_of([first, second], point, is_real=mode == "real")
                    pair = one, other, tolerance
            except UndefinedError:
                continue
            except UnreadableError:
                if not names or place < _SMALL_POINTS:
                    raise
                continue
            except NotRationalError:
                is_complete = False
                break
            found += 1
            yield pair
        if is_complete and (found >= needed or mode == "exact"):
            return


def sample_points(names: list[str]) -> Iterator[dict[str, Fraction]]:
    """Where to compare: numbers of both signs and all sizes, and whole ones (for ``(-1)^n``)."""
    if not names:
        yield {}
        return
    source = random.Random(20250122)
    small = [(0.2, 3), (0.2, 3), (-3, -0.2), (-3, 3), (0.01, 0.9)]
    for low, high in [*small, (30, 80), (-80, -30), (300, 900), (-900, 900), (2000, 9000)]:
        yield {name: Fraction(round(source.uniform(low, high) * 1009), 1009) for name in names}
    for turn in range(6):
        yield {name: Fraction(1 + (turn * (place + 1) + place) % 7) for place, name in enumerate(names)}
