"""Panels as HTML: title, legend with first and last value, and the plot."""

import dataclasses
from collections.abc import Callable

import numpy as np

from r1jax.report import plot
from r1jax.report.headline import evaluation_size
from r1jax.report.markup import escape, show
from r1jax.report.panels import OTHER, Line, Panel
from r1jax.workdir.read import Series, Stage

_COMPARED = "Points, and the figures above: first and last evaluation. Lines: along the way."
_SMOOTHED = "Smoothed over a tenth of the run"


def stage_figures(stage: Stage, sections: dict[str, list[Panel]]) -> str:
    """Every panel of one stage, under the headings of its sections."""

    def draw(panel: Panel) -> list[str]:
        lines = enumerate(panel.lines)
        curves = [curve for colour, line in lines for curve in _curves(stage, line, colour, panel, label=line.label)]
        note = f"{panel.note} {_evaluated_on(panel, stage, curves)}".strip()
        named = dataclasses.replace(panel, note=note)
        return [figure(named, curves, name=f"{stage.name} {panel.title}")] if curves else []

    return _sections(sections, draw)


def compared_figures(stages: dict[str, Stage], sections: dict[str, list[Panel]]) -> str:
    """Every metric of every panel with one curve a run. Keys are the runs' labels, in order of their looks."""
    drawn: set[str] = set()

    def draw(panel: Panel) -> list[str]:
        figures = []
        for line in panel.lines if panel.is_compared else ():
            if line.metric in drawn:
                continue  # a line of another panel too
            drawn.add(line.metric)
            runs = {label: (i, s) for i, (label, s) in enumerate(stages.items()) if line.metric in s.metrics}
            band = line.metric.startswith("eval/") and len(runs) <= 4
            curves = [
                curve
                for label, (look, stage) in runs.items()
                for curve in _with_one_label(_curves(stage, line, look, panel, label=label, band=band), label)
            ]
            if not curves:
                continue
            title = panel.title if len(panel.lines) == 1 else f"{panel.title}: {line.label}"
            note = f"{panel.note} {_COMPARED}".strip() if any(curve.is_points for curve in curves) else panel.note
            alone = dataclasses.replace(panel, title=title, note=note, stacked=False)
            figures.append(figure(alone, curves, name=title, raw=len(runs) <= 4))
        return figures

    return _sections(sections, draw)


def figure(panel: Panel, curves: list[plot.Curve], *, name: str, raw: bool = True) -> str:
    """HTML: one panel with its curves; a line of text where no value changes."""
    if all(np.ptp(curve.values) == 0 for curve in curves):
        values = {curve.label: show(curve.values[0]) for curve in curves}
        several = [f"{label} {value}".strip() for label, value in values.items()]
        text = show(curves[0].values[0]) if len(set(values.values())) == 1 else ", ".join(several)
        return f"{escape(panel.title)}: {escape(text)}"
    legend = "".join(
        f"<span>{swatch(curve.colour, is_points=curve.is_points)}{escape(curve.label)} {curve.printed}</span>"
        for curve in curves
        if curve.label
    )
    has_band = any(curve.low is not None for curve in curves)
    notes = [text for text in (panel.note, panel.band if has_band else "") if text]
    if not panel.stacked and any(curve.is_smoothed for curve in curves):
        notes.append(f"{_SMOOTHED}; faint: as logged." if raw else f"{_SMOOTHED}.")
    if panel.stacked:
        high, cut_off = plot.outliers(curves)
        panel = dataclasses.replace(panel, high=high)
        sums = ", ".join(f"{show(value)} at {panel.across} {show(step)}" for step, value in cut_off)
        notes += [f"Cut off: {sums}."] if cut_off else []
    note = f"<p>{' '.join(notes)}</p>" if notes else ""
    svg = plot.draw(curves, panel, title=escape(name), raw=raw)
    return (
        f'<figure><figcaption>{escape(panel.title)}<div class="legend">{legend}</div>{note}</figcaption>{svg}</figure>'
    )


def swatch(colour: int, *, is_points: bool = False) -> str:
    """HTML: a piece of the line, or a point, that a curve is drawn with."""
    look = f"dash{colour // plot.NUM_COLOURS % (plot.NUM_LOOKS // plot.NUM_COLOURS)}"
    return f'<i class="{"points " if is_points else ""}{look}" style="--c:var(--c{colour % plot.NUM_COLOURS})"></i>'


def _sections(sections: dict[str, list[Panel]], draw: Callable[[Panel], list[str]]) -> str:
    parts = []
    for title, panels in sections.items():
        figures = [text for panel in panels for text in draw(panel)]
        plots = [text for text in figures if text.startswith("<figure>")]
        flat = [text for text in figures if text not in plots]
        content = f'<div class="grid">{"".join(plots)}</div>' if plots else ""
        content += f'<p class="quiet">Constant, or logged once: {"; ".join(flat)}.</p>' if flat else ""
        if title == OTHER:
            summary = f"<summary><h3>{title}</h3> <small>({len(figures)})</small></summary>"
            parts.append(f"<details>{summary}{content}</details>")
        elif figures:
            parts.append(f"<h3>{title}</h3>{content}")
    return "".join(parts)


def _curves(stage: Stage, line: Line, colour: int, panel: Panel, *, label: str, band: bool = True) -> list[plot.Curve]:
    """The curves of one metric: first and last evaluations as points, apart from those along the way."""
    curves = []
    parts = stage.curves(line.metric)
    edges = [stage.metrics[name].by_kind() for name in (line.low, line.high) if band and name in stage.metrics]
    for kind, series, is_points in parts:
        if is_points and panel.is_along_the_way and stage.is_evaluated_along_the_way:
            continue
        limits = [_at(series.steps, edge[kind]) for edge in edges if kind in edge]
        low, high = limits if len(limits) == 2 else (None, None)
        when = f"{kind}" if len(parts) > 2 else "first and last" if is_points else "along the way"
        name = f"{label}, {when}" if len(parts) > 1 else label
        curves.append(
            plot.Curve(series.steps, series.values, colour, low, high, name, panel.is_exact, is_points=is_points)
        )
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


def _at(steps: np.ndarray, series: Series) -> np.ndarray:
    """The values of a series at `steps` [n], nan where it has none."""
    values = dict(zip(series.steps, series.values, strict=True))
    return np.array([values.get(step, np.nan) for step in steps])


def _evaluated_on(panel: Panel, stage: Stage, curves: list[plot.Curve]) -> str:
    """A sentence on what the held-out curves of a panel were measured on; "" where there are none."""
    full, short = (f" ({size})" if (size := evaluation_size(stage, prefix)) else "" for prefix in ("final_", ""))
    if panel.is_along_the_way and stage.is_evaluated_along_the_way:
        return f"Along the way{short}."
    has_points = any(curve.is_points for curve in curves)
    return f"Points: first and last evaluation{full}. Line: along the way{short}." if has_points else ""
