"""Draws curves as inline SVG. Colours are CSS variables, so that one plot serves light and dark pages."""

import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from r1jax.report.markup import show
from r1jax.report.panels import Panel

NUM_COLOURS = 8
NUM_LOOKS = 4 * NUM_COLOURS  # colours times dashes
_MAX_POINTS = 800  # a longer curve is drawn as means over equal shares of its points
_SMOOTH_FROM = 40  # points; shorter curves are drawn as they are, each point marked
_SIZE = (5.2, 2.9)  # inches at 72 units

# matplotlib cannot write CSS variables: it gets colours that mean nothing, replaced in its output.
_TEXT, _GRID = "#0a00f0", "#0a00f1"
_COLOURS = [f"#0a000{index}" for index in range(NUM_COLOURS)]
_VARIABLES = {_TEXT: "var(--quiet)", _GRID: "var(--grid)"} | {c: f"var(--c{i})" for i, c in enumerate(_COLOURS)}
_DASHES = ("-", "--", ":", "-.")
_MARKERS = ("D", "s", "o", "^")


@dataclasses.dataclass(frozen=True)
class Curve:
    """`values` [n] over `steps` [n], n >= 1, finite; with the edges of a band [n] if there is one, nan where not."""

    steps: np.ndarray
    values: np.ndarray
    look: int  # of NUM_LOOKS colours and dashes
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    label: str = ""  # in the legend; "" leaves it out there
    is_exact: bool = False  # not noisy: never smoothed
    is_points: bool = False  # no line joins its points
    ends: str = ""  # the figures in the legend; "": its first and last value

    @property
    def is_smoothed(self) -> bool:
        """Whether its running mean is drawn."""
        return len(self.values) >= _SMOOTH_FROM and not self.is_exact and not self.is_points

    @property
    def printed(self) -> str:
        """The figures of its entry in the legend."""
        return self.ends or " → ".join(show(value) for value in (self.values[0], self.values[-1])[: len(self.values)])

    def smoothed(self) -> np.ndarray:
        """The running mean over a tenth of the curve [n]; the values themselves if there are few."""
        size = len(self.values)
        if not self.is_smoothed:
            return self.values
        window = np.ones(2 * max(2, size // 20) + 1)
        return np.convolve(self.values, window, "same") / np.convolve(np.ones(size), window, "same")

    def thinned(self) -> "Curve":
        """The same curve with at most 800 points."""
        size = len(self.steps)
        if size <= _MAX_POINTS:
            return self
        edges = np.linspace(0, size, _MAX_POINTS, endpoint=False).astype(int)
        count = np.diff(np.append(edges, size))
        arrays = {"steps": self.steps, "values": self.values, "low": self.low, "high": self.high}
        means = {name: np.add.reduceat(array, edges) / count for name, array in arrays.items() if array is not None}
        return dataclasses.replace(self, **means)


def draw(curves: Sequence[Curve], panel: Panel, *, title: str = "", raw: bool = True) -> Markup:
    """Draws at least one curve on the axes of a panel and returns an <svg> element.

    Args:
        curves: lines and points, or, of a panel that is stacked, areas on top of each other.
        panel: its unit and the ends of its axis; where `low` or `high` is None the data decide.
        title: read out by screen readers.
        raw: show the unsmoothed values faintly behind the smoothed ones.
    """
    curves = [curve.thinned() for curve in curves]
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,
        "font.size": 10,
        "axes.labelsize": 10,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        if panel.stacked:
            steps, values = _stacked(curves)
            colours = [_COLOURS[curve.look % NUM_COLOURS] for curve in curves]
            axes.stackplot(steps, values, colors=colours, alpha=0.75, linewidth=0.5, step="mid")
        else:
            for curve in curves:
                _line(axes, curve, raw=raw, has_gaps=panel.across == "update")
        _bounds(axes, panel.low, panel.high, is_fixed=panel.stacked)
        axes.set_xlabel(panel.across, color=_TEXT)
        axes.set_ylabel(panel.unit, color=_TEXT)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.tick_params(colors=_TEXT, length=0)
        axes.ticklabel_format(axis="y", scilimits=(-3, 5), useMathText=False, useOffset=False)
        axes.yaxis.get_offset_text().set_color(_TEXT)
        axes.grid(color=_GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), title)


def _line(axes, curve: Curve, *, raw: bool, has_gaps: bool) -> None:
    colour = _COLOURS[curve.look % NUM_COLOURS]
    group = curve.look // NUM_COLOURS % len(_DASHES)
    if curve.low is not None and curve.high is not None:
        if curve.is_points:
            axes.vlines(curve.steps, curve.low, curve.high, color=colour, linewidth=1.2)
        else:
            axes.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
    if curve.is_points:
        axes.plot(curve.steps, curve.values, color=colour, linestyle="", marker=_MARKERS[group], markersize=4.5)
        return
    gaps = np.flatnonzero(gaps_of(curve.steps) & has_gaps) + 1
    steps, values, smoothed = (np.insert(a, gaps, np.nan) for a in (curve.steps, curve.values, curve.smoothed()))
    if curve.is_smoothed and raw:
        axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
    marker = "o" if len(curve.steps) < _SMOOTH_FROM or len(gaps) else ""
    axes.plot(steps, smoothed, color=colour, linestyle=_DASHES[group], linewidth=1.7, marker=marker, markersize=2.6)


def gaps_of(steps: np.ndarray) -> np.ndarray:
    """Between which points [n - 1] of a curve [n] some are missing: the step is half as long again as those about it.

    A new cadence is no gap, nor is a shorter step at the end.
    """
    widths = np.diff(steps)
    padded = np.concatenate([[np.nan], widths, [np.nan]])
    around = np.fmax(padded[:-2], padded[2:])
    if len(widths):
        around[0] = np.max(widths[1:3]) if len(widths) > 2 else np.inf
    return widths > 1.5 * around


def _stacked(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """(steps [n] of any curve, values [curves, n], 0 where a curve has none)."""
    steps = np.unique(np.concatenate([curve.steps for curve in curves]))
    values = np.zeros((len(curves), len(steps)))
    for row, curve in zip(values, curves, strict=True):
        row[np.searchsorted(steps, curve.steps)] = curve.values
    return steps, values


def outliers(curves: Sequence[Curve]) -> tuple[float | None, list[tuple[float, float]]]:
    """Where the sums of stacked curves dwarf all others: (the largest of the others, [(step, sum), ...]), or (None, [])."""
    steps, values = _stacked(curves)
    sums = values.sum(axis=0)
    is_high = sums > 3 * np.quantile(sums, 0.75)
    largest = sums[~is_high].max()
    high = list(zip(steps[is_high], sums[is_high], strict=True))
    return (float(largest), high) if 0 < len(high) <= 3 and largest > 0 else (None, [])


def _bounds(axes, low: float | None, high: float | None, *, is_fixed: bool) -> None:
    """Sets the given ends of the vertical axis unless the data go past them, or fill less than a tenth of it.

    A flat curve gets some room.
    """
    bottom, top = axes.get_ylim()
    lowest, highest = axes.dataLim.intervaly
    if low is not None and not is_fixed and 0 < highest - lowest < 0.1 * ((highest if high is None else high) - low):
        return
    bottom = bottom if low is None else min(low, lowest)
    top = top if high is None else high * 1.02 if is_fixed else max(high * 1.02, highest)
    if low is not None and highest <= bottom:
        top = bottom + 1.0
    axes.set_ylim(bottom, top)


def _inline(svg: str, title: str) -> Markup:
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    _, _, rest = svg.partition('viewBox="')
    box, body = rest.partition('"')[0], rest.partition(">")[2]
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # equal in every plot; the ids that are referred to are salted
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    return Markup(re.sub(r">\s+<", "><", f'<svg viewBox="{box}" role="img" aria-label="{escape(title)}">{body}'))
