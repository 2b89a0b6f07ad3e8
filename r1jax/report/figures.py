"""Panels with their curves: title, legend with first and last value, notes and the plot."""

import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from r1jax.report import plot
from r1jax.report.headline import evaluation_size
from r1jax.report.markup import show, visible
from r1jax.report.panels import OTHER, Line, Panel, resolve
from r1jax.workdir.read import Stage

_COMPARED = "Points, and the figures above: first and last evaluation. Lines: along the way."
_SMOOTHED = "Smoothed over a tenth of the run"


class Drawn(NamedTuple):
    """A panel with its curves."""

    title: str
    curves: list[plot.Curve]
    note: str
    svg: Markup


class Section(NamedTuple):
    """Panels under one heading, and what does not change, in words."""

    title: str
    drawn: list[Drawn]
    constant: list[str]
    is_folded: bool


def stage_figures(stage: Stage) -> list[Section]:
    """Every panel of one stage, under the headings of its sections."""

    def draw(panel: Panel) -> Iterator[Drawn | str]:
        lines = enumerate(panel.lines)
        curves = [curve for look, line in lines for curve in _curves(stage, line, look, panel, label=line.label)]
        note = f"{panel.note} {_evaluated_on(panel, stage, curves)}".strip()
        if curves:
            yield draw_panel(dataclasses.replace(panel, note=note), curves, name=f"{stage.name} {panel.title}")

    return _sections(stage.metrics, draw)


def compared_figures(stages: dict[str, Stage]) -> list[Section]:
    """Every metric of every panel with one curve a run. Keys are the runs' labels, in order of their looks."""
    drawn: set[str] = set()  # a line may be one of several panels

    def draw(panel: Panel) -> Iterator[Drawn | str]:
        for line in panel.lines if panel.is_compared else ():
            runs = {label: (i, s) for i, (label, s) in enumerate(stages.items()) if line.metric in s.metrics}
            band = line.metric.startswith("eval/") and len(runs) <= 4
            curves = [
                curve
                for label, (look, stage) in runs.items()
                for curve in _with_one_label(_curves(stage, line, look, panel, label=label, band=band), label)
            ]
            if line.metric in drawn or not curves:
                continue
            drawn.add(line.metric)
            title = panel.title if len(panel.lines) == 1 else f"{panel.title}: {line.label}"
            note = f"{panel.note} {_COMPARED}".strip() if any(curve.is_points for curve in curves) else panel.note
            alone = dataclasses.replace(panel, title=title, note=note, stacked=False)
            yield draw_panel(alone, curves, name=title, raw=len(runs) <= 4)

    return _sections({name: None for stage in stages.values() for name in stage.metrics}, draw)


def draw_panel(panel: Panel, curves: list[plot.Curve], *, name: str, raw: bool = True) -> Drawn | str:
    """One panel with its curves; a line of text where no value changes. A screen reader says `name`."""
    if all(np.ptp(curve.values) == 0 for curve in curves):
        values = {curve.label: show(curve.values[0]) for curve in curves}
        several = ", ".join(f"{label} {value}".strip() for label, value in values.items())
        return f"{panel.title}: {show(curves[0].values[0]) if len(set(values.values())) == 1 else several}"
    notes = [panel.note, panel.band if any(curve.low is not None for curve in curves) else ""]
    if not panel.stacked and any(curve.is_smoothed for curve in curves):
        notes.append(f"{_SMOOTHED}; faint: as logged." if raw else f"{_SMOOTHED}.")
    if panel.stacked:
        high, cut_off = plot.outliers(curves)
        panel = dataclasses.replace(panel, high=high)
        sums = ", ".join(f"{show(value)} at {panel.across} {show(step)}" for step, value in cut_off)
        notes += [f"Cut off: {sums}."] if cut_off else []
    svg = plot.draw(curves, panel, title=visible(name), raw=raw)
    return Drawn(panel.title, curves, " ".join(filter(None, notes)), svg)


def _sections(names: Collection[str], draw: Callable[[Panel], Iterator[Drawn | str]]) -> list[Section]:
    """The sections that metrics of these names fill."""
    results = []
    for title, panels in resolve(names).items():
        figures = [figure for panel in panels for figure in draw(panel)]
        drawn = [figure for figure in figures if isinstance(figure, Drawn)]
        constant = [figure for figure in figures if isinstance(figure, str)]
        results += [Section(title, drawn, constant, title == OTHER)] if figures else []
    return results


def _curves(stage: Stage, line: Line, look: int, panel: Panel, *, label: str, band: bool = True) -> list[plot.Curve]:
    """The curves of one metric: first and last evaluations as points, apart from those along the way."""
    curves = []
    parts = stage.curves(line.metric, (line.low, line.high))
    for kind, series, low, high, is_points in parts:
        if is_points and panel.is_along_the_way and stage.is_evaluated_along_the_way:
            continue
        when = f"{kind}" if len(parts) > 2 else "first and last" if is_points else "along the way"
        name = f"{label}, {when}" if len(parts) > 1 else label
        low, high = (low, high) if band else (None, None)
        curve = plot.Curve(series.steps, series.values, look, low, high, name, panel.is_exact, is_points=is_points)
        curves.append(curve)
    return curves


def _with_one_label(curves: list[plot.Curve], label: str) -> list[plot.Curve]:
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


def _evaluated_on(panel: Panel, stage: Stage, curves: list[plot.Curve]) -> str:
    """A sentence on what the held-out curves of a panel were measured on; "" where there are none."""
    full, short = (f" ({size})" if (size := evaluation_size(stage, prefix)) else "" for prefix in ("final_", ""))
    if panel.is_along_the_way and stage.is_evaluated_along_the_way:
        return f"Along the way{short}."
    has_points = any(curve.is_points for curve in curves)
    return f"Points: first and last evaluation{full}. Line: along the way{short}." if has_points else ""
