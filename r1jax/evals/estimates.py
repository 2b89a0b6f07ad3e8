"""Figures with 95 % intervals: over seeds by Student's t, over problems as an evaluation gives them, and their
differences.

numpy and scipy alone.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

FEWEST_SEEDS = 3
"""From so many runs on an interval is one over runs; below, the runs' intervals are put together, if they have any."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure and the limits of its 95 % interval; None where there is no interval."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def is_above_zero(self) -> bool | None:
        """Whether the whole interval is; None without one."""
        return None if self.low is None else self.low > 0

    @property
    def is_below_zero(self) -> bool | None:
        """Whether the whole interval is; None without one."""
        return None if self.high is None else self.high < 0

    @property
    def half_width(self) -> float | None:
        """Half of the interval's width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @classmethod
    def around(cls, value: float, half_width: float | None) -> "Estimate":
        """With the interval around the value; without one where there is no half width."""
        return cls(value) if half_width is None else cls(value, value - half_width, value + half_width)

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" [{self.low:.3g}, {self.high:.3g}]"
        return f"{self.value:.3g}{interval}"

    def to_json(self) -> dict[str, float | None]:
        """The three numbers by name."""
        return dataclasses.asdict(self)


def mean_over(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over independent runs (seeds).

    From three runs on with the t-interval over their values, else with their intervals put together (``_together``), or
    with none if one of them has none.
    """
    values = [estimate.value for estimate in estimates]
    mean, count = float(np.mean(values)), len(values)
    if count >= FEWEST_SEEDS:
        return Estimate.around(mean, _t(count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count))
    return _together(estimates, [1 / count] * count)


def mean_difference(first: Sequence[Estimate], second: Sequence[Estimate]) -> Estimate:
    """First less second, over pairs of runs (the same seed each): intervals as ``mean_over`` of the pairs' differences."""
    return mean_over([_together([one, other], [1, -1]) for one, other in zip(first, second, strict=True)])


def change_of_level(early: Sequence[float], late: Sequence[float]) -> Estimate:
    """Mean of late less mean of early, two stretches of a noisy curve: Welch's interval, degrees of freedom those of the shorter."""
    change = float(np.mean(late) - np.mean(early))
    error = math.hypot(*(float(np.std(values, ddof=1)) / math.sqrt(len(values)) for values in (early, late)))
    return Estimate.around(change, _t(min(len(early), len(late)) - 1) * error)


def _together(estimates: Sequence[Estimate], factors: Sequence[float]) -> Estimate:
    """The sum of independent figures, each times its factor; without an interval where one of them has none.

    Each limit is as far off as the root of the squared distances of the limits that push it there (MOVER, Zou and
    Donner 2008). So a score of zero with the interval [0, 0.2] does not become one of [-0.1, 0.1].
    """
    value, below, above = 0.0, [], []
    for estimate, factor in zip(estimates, factors, strict=True):
        value += factor * estimate.value
        if estimate.low is not None and estimate.high is not None:
            ends = sorted([factor * (estimate.low - estimate.value), factor * (estimate.high - estimate.value)])
            below.append(ends[0])
            above.append(ends[1])
    if len(below) < len(estimates):
        return Estimate(value)
    return Estimate(value, value - math.hypot(*below), value + math.hypot(*above))


def _t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t."""
    return float(stdtrit(freedom, 0.975))
