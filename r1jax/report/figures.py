"""Panels with their curves: title, legend with first and last value, notes, and the points that `plots.js` draws."""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax.report.headline import evaluation_size
from r1jax.report.markup import show, visible
from r1jax.report.panels import OTHER, Line, Panel, resolve
from r1jax.workdir.read import Series, Stage, flatten

_COMPARED = "Points, and the figures above: first and last evaluation. Lines: along the way."
_MAX_POINTS = 2000  # a longer curve is drawn as means over equal shares of its points
_PHASES = {
    "time/generate": "sampling",
    "time/rewards": "scoring",
    "time/logprobs": "log-probs",
    "time/update": "update",
    "time/eval": "evaluation",
}
_MAX_BARS = 1000  # a row of a chart of bars; of more every k-th is drawn


@dataclasses.dataclass(frozen=True)
class Curve:
    """`values` [n] over `steps` [n], n >= 1, finite; with the edges of a band [n] if there is one, nan where not."""

    steps: np.ndarray
    values: np.ndarray
    look: int  # which colour and dash
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    label: str = ""  # in the legend; "" leaves it out there
    is_exact: bool = False  # not noisy: never smoothed
    is_points: bool = False  # no line joins its points
    ends: str = ""  # the figures in the legend; "": its first and last value
    run: int | None = None  # of the page's runs, for the other horizontal axes

    def __post_init__(self):
        columns = [array.shape for array in (self.values, self.low, self.high) if array is not None]
        if self.steps.ndim != 1 or any(shape != self.steps.shape for shape in columns):
            raise ValueError(f"curve {self.label!r} has steps {self.steps.shape} and values {columns}")

    @property
    def printed(self) -> str:
        """The figures of its entry in the legend."""
        return self.ends or " → ".join(show(value) for value in (self.values[0], self.values[-1])[: len(self.values)])

    def thinned(self) -> "Curve":
        """The same curve with at most 2,000 points."""
        size = len(self.steps)
        if size <= _MAX_POINTS:
            return self
        edges = np.linspace(0, size, _MAX_POINTS, endpoint=False).astype(int)
        count = np.diff(np.append(edges, size))
        arrays = {"steps": self.steps, "values": self.values, "low": self.low, "high": self.high}
        means = {name: np.add.reduceat(array, edges) / count for name, array in arrays.items() if array is not None}
        return dataclasses.replace(self, **means)

    def data(self, *, has_gaps: bool) -> dict[str, Any]:
        """What `plots.js` draws it from. A point without a value breaks the line where points are missing."""
        curve = self.thinned()
        gaps = np.flatnonzero(gaps_of(curve.steps) & (has_gaps and not curve.is_points)) + 1
        x = np.insert(curve.steps, gaps, (curve.steps[gaps - 1] + curve.steps[gaps]) / 2)
        columns = {"y": curve.values, "low": curve.low, "high": curve.high}
        arrays = {name: numbers(np.insert(a, gaps, np.nan)) for name, a in columns.items() if a is not None}
        flags = {"exact": curve.is_exact, "points": curve.is_points}
        about = {"label": visible(curve.label), "ends": curve.printed, "look": curve.look, "run": curve.run}
        return about | {name: True for name, value in flags.items() if value} | {"x": numbers(x)} | arrays


class Drawn(NamedTuple):
    """A panel with its curves."""

    title: str
    unit: str
    curves: list[Curve]
    note: str
    data: dict[str, Any]  # for plots.js


class Section(NamedTuple):
    """Panels under one heading, and what does not change, in words."""

    title: str
    drawn: list[Drawn]
    constant: list[str]
    is_folded: bool


def stage_figures(stage: Stage, run: int | None = None) -> list[Section]:
    """Every panel of one stage, under the headings of its sections. `run` is its number among the page's runs."""

    def draw(panel: Panel) -> Iterator[Drawn | str]:
        lines = enumerate(panel.lines)
        curves = [curve for look, line in lines for curve in _curves(stage, line, look, panel, label=line.label)]
        curves = [dataclasses.replace(curve, run=run) for curve in curves]
        note = f"{panel.note} {_evaluated_on(panel, stage, curves)}".strip()
        if curves:
            yield draw_panel(dataclasses.replace(panel, note=note), curves, name=f"{stage.name} {panel.title}")

    sections = _sections(stage.metrics, draw)
    bars = [drawn for drawn in (_lanes(stage), _expert_load(stage)) if drawn]
    if bars:
        sections.insert(
            sum(not section.is_folded for section in sections), Section("Time and experts", bars, [], False)
        )
    return sections


def compared_figures(stages: dict[str, Stage], looks: Mapping[str, int], first_run: int) -> list[Section]:
    """Every metric of every panel with one curve a run. Keys are the runs' labels; the stages are the page's runs from
    `first_run` on."""
    drawn: set[str] = set()  # a line may be one of several panels

    def draw(panel: Panel) -> Iterator[Drawn | str]:
        for line in panel.lines:
            runs = {label: (i, s) for i, (label, s) in enumerate(stages.items()) if line.metric in s.metrics}
            band = line.metric.startswith("eval/") and len(runs) <= 4
            curves = [
                dataclasses.replace(curve, run=first_run + number)
                for label, (number, stage) in runs.items()
                for curve in _with_one_label(_curves(stage, line, looks[label], panel, label=label, band=band), label)
            ]
            if line.metric in drawn or not curves:
                continue
            drawn.add(line.metric)
            title = panel.title if len(panel.lines) == 1 else f"{panel.title}: {line.label}"
            note = f"{panel.note} {_COMPARED}".strip() if any(curve.is_points for curve in curves) else panel.note
            yield draw_panel(dataclasses.replace(panel, title=title, note=note), curves, name=title)

    return _sections({name: None for stage in stages.values() for name in stage.metrics}, draw)


def draw_panel(panel: Panel, curves: list[Curve], *, name: str) -> Drawn | str:
    """One panel with its curves; a line of text where no value changes. A screen reader says `name`."""
    if all(np.ptp(curve.values) == 0 for curve in curves):
        values = {curve.label: show(curve.values[0]) for curve in curves}
        several = ", ".join(f"{label} {value}".strip() for label, value in values.items())
        return f"{panel.title}: {show(curves[0].values[0]) if len(set(values.values())) == 1 else several}"
    notes = [panel.note, panel.band if any(curve.low is not None for curve in curves) else ""]
    about = {"name": visible(name), "across": panel.across, "low": panel.low, "high": panel.high}
    points = [curve.data(has_gaps=panel.across == "update") for curve in curves]
    return Drawn(panel.title, panel.unit, curves, " ".join(filter(None, notes)), about | {"curves": points})


def axes_of(stages: Mapping[str, Stage]) -> list[dict[str, Any]]:
    """What the page knows of its runs: label, tokens and seconds by update, and which of them differ in their seed only."""
    runs, settings = [], {}
    for label, stage in stages.items():
        axes = {}
        for axis, metric in (("tokens", "num_tokens"), ("time", "time")):
            if series := stage.metrics.get(metric):
                at = Curve(*_from_zero(series), 0).thinned()
                axes[axis] = {"x": numbers(at.steps), "y": numbers(np.maximum.accumulate(at.values))}
        key = repr([(key, value) for key, value in flatten(stage.config) if key.rpartition(".")[2] != "seed"])
        runs.append({"label": visible(label), "setting": settings.setdefault(key, len(settings)), "axes": axes})
    return runs


def numbers(values: np.ndarray) -> list[float | int | None]:
    """Seven digits of each value, None for nan: what JSON holds."""
    rounded = [float(f"{value:.7g}") if math.isfinite(value) else None for value in values]
    return [int(v) if v is not None and v.is_integer() and abs(v) < 1e15 else v for v in rounded]


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


def _from_zero(series: Series) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of what counts up from nothing at update 0."""
    if series.steps[0] <= 0:
        return series.steps, series.values
    return np.insert(series.steps, 0, 0.0), np.insert(series.values, 0, 0.0)


def _lanes(stage: Stage) -> Drawn | None:
    """When each phase ran, as far as the log says: the seconds of a step, one phase after the other up to its row."""
    ends = stage.metrics.get("time")
    present = [name for name in _PHASES if name in stage.metrics]
    if ends is None or len(present) < 2:
        return None
    seconds = {name: dict(zip(s.steps, s.values, strict=True)) for name, s in stage.metrics.items() if name in present}
    bars = []
    for step, end in list(zip(ends.steps, ends.values, strict=True))[:: math.ceil(len(ends.steps) / _MAX_BARS)]:
        for row, name in reversed(list(enumerate(present))):
            width = seconds[name].get(step, 0.0)
            if name == "time/eval":  # of the policy that the step made
                end += width
            if width > 0:
                bars.append(
                    [row, *numbers(np.array([max(0.0, end - width), end])), 1, f"update {step:,.0f}: {show(width)} s"]
                )
            end -= width
    note = "Of each step the logged seconds, one phase after the other up to the time of its row; phases that overlap are drawn in turn."
    return _bars("Phases over time", note, "seconds", [_PHASES[name] for name in present], bars)


def _expert_load(stage: Stage) -> Drawn | None:
    """Busiest expert over the mean, layers down and updates across."""
    layers = sorted(name for name in stage.metrics if name.startswith("moe/load/"))
    if not layers:
        return None
    highest = max(stage.metrics[name].values.max() for name in layers)
    bars = []
    for row, name in enumerate(layers):
        series = stage.metrics[name]
        thin = math.ceil(len(series.steps) / _MAX_BARS * max(1, len(layers) / 8))
        steps = series.steps[::thin]
        edges = np.append(steps, steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1))
        for left, right, value in zip(edges[:-1], edges[1:], series.values[::thin], strict=True):
            shade = max(0.0, (value - 1) / (highest - 1)) if highest > 1 else 0.0
            bars.append([row, *numbers(np.array([left, right])), round(shade, 3), f"update {left:,.0f}: {show(value)}"])
    note = f"Busiest expert over the mean; pale: 1, perfect balance; full: {show(highest)}."
    return _bars("Expert load, every layer", note, "update", [name.rpartition("/")[2] for name in layers], bars)


def _bars(title: str, note: str, across: str, rows: Sequence[str], bars: list[list[Any]]) -> Drawn:
    data = {"name": title, "across": across, "rows": [visible(row) for row in rows], "bars": bars, "curves": []}
    return Drawn(title, "", [], note, data)


def _sections(names: Collection[str], draw: Callable[[Panel], Iterator[Drawn | str]]) -> list[Section]:
    """The sections that metrics of these names fill."""
    results = []
    for title, panels in resolve(names).items():
        figures = [figure for panel in panels for figure in draw(panel)]
        drawn = [figure for figure in figures if isinstance(figure, Drawn)]
        constant = [figure for figure in figures if isinstance(figure, str)]
        results += [Section(title, drawn, constant, title == OTHER)] if figures else []
    return results


def _curves(stage: Stage, line: Line, look: int, panel: Panel, *, label: str, band: bool = True) -> list[Curve]:
    """The curves of one metric: first and last evaluations as points, apart from those along the way."""
    curves = []
    parts = stage.curves(line.metric, (line.low, line.high))
    for kind, series, low, high, is_points in parts:
        if is_points and panel.is_along_the_way and stage.is_evaluated_along_the_way:
            continue
        when = f"{kind}" if len(parts) > 2 else "first and last" if is_points else "along the way"
        name = f"{label}, {when}" if len(parts) > 1 else label
        low, high = (low, high) if band else (None, None)
        curves.append(Curve(series.steps, series.values, look, low, high, name, panel.is_exact, is_points=is_points))
    return curves


def _with_one_label(curves: list[Curve], label: str) -> list[Curve]:
    """The curves of a run with one entry in the legend, which prints the first and the last evaluation where there are such."""
    if len(curves) < 2:
        return curves
    line, *others = curves
    first, *later = [show(value) for curve in others if curve.is_points for value in curve.values] or [""]
    ends = f"{first} → {later[-1] if later else '–'}" if first else ""
    return [
        dataclasses.replace(line, label=label, ends=ends),
        *(dataclasses.replace(other, label="") for other in others),
    ]


def _evaluated_on(panel: Panel, stage: Stage, curves: list[Curve]) -> str:
    """A sentence on what the held-out curves of a panel were measured on; "" where there are none."""
    full, short = (f" ({size})" if (size := evaluation_size(stage, prefix)) else "" for prefix in ("final_", ""))
    if panel.is_along_the_way and stage.is_evaluated_along_the_way:
        return f"Along the way{short}."
    has_points = any(curve.is_points for curve in curves)
    return f"Points: first and last evaluation{full}. Line: along the way{short}." if has_points else ""
