"""Panels as HTML: title, legend with first and last value, and the plot."""

import dataclasses

import numpy as np

from r1jax.report import plot
from r1jax.report.markup import escape, show
from r1jax.report.panels import Line, Panel, Section
from r1jax.workdir.read import Series, Stage


def stage_figures(stage: Stage, sections: list[Section]) -> str:
    """Every panel of one stage, under the headings of its sections."""
    parts = []
    for section in sections:
        figures = []
        for panel in section.panels:
            curves = [_curve(stage, line, colour, panel) for colour, line in enumerate(panel.lines)]
            figures.append(
                figure(panel, [line.label for line in panel.lines], curves, name=f"{stage.name} {panel.title}")
            )
        parts.append(_section(section.title, figures))
    return "".join(parts)


def compared_figures(stages: dict[str, Stage], sections: list[Section]) -> str:
    """Every metric of every panel with one curve a run. Keys are the runs' labels, in colour order."""
    parts = []
    for section in sections:
        figures = []
        for panel in section.panels:
            for line in panel.lines if panel.is_compared else ():
                runs = {label: (i, s) for i, (label, s) in enumerate(stages.items()) if line.metric in s.metrics}
                curves = [
                    _curve(stage, line, colour, panel, band=line.metric.startswith("eval/") and len(runs) <= 4)
                    for colour, stage in runs.values()
                ]
                title = panel.title if len(panel.lines) == 1 else f"{panel.title}: {line.label}"
                alone = dataclasses.replace(panel, title=title, stacked=False)
                figures.append(figure(alone, list(runs), curves, name=title, raw=len(runs) <= 4))
        parts.append(_section(section.title, figures))
    return "".join(parts)


def figure(panel: Panel, labels: list[str], curves: list[plot.Curve], *, name: str, raw: bool = True) -> str:
    """HTML: one panel with its curves, which the labels name in the same order."""
    legend = "".join(
        f'<span><i style="background:var(--c{curve.colour % plot.NUM_COLOURS})"></i>{escape(label)} {_ends_of(curve)}</span>'
        for label, curve in zip(labels, curves, strict=True)
    )
    note = f"<p>{panel.note}</p>" if panel.note else ""
    svg = plot.draw(
        curves,
        title=escape(name),
        unit=panel.unit,
        across=panel.across,
        low=panel.low,
        high=panel.high,
        stacked=panel.stacked,
        raw=raw,
    )
    return (
        f'<figure><figcaption>{escape(panel.title)}<div class="legend">{legend}</div>{note}</figcaption>{svg}</figure>'
    )


def ends(series: Series) -> tuple[float, float]:
    """First and last value of a series, smoothed as it is drawn."""
    values = plot.Curve(series.steps, series.values, 0).smoothed()
    return float(values[0]), float(values[-1])


def _section(title: str, figures: list[str]) -> str:
    grid = f'<div class="grid">{"".join(figures)}</div>'
    if title == "Other metrics":
        return f"<details><summary><h3>{title}</h3> <small>({len(figures)})</small></summary>{grid}</details>"
    return f"<h3>{title}</h3>{grid}"


def _curve(stage: Stage, line: Line, colour: int, panel: Panel, *, band: bool = True) -> plot.Curve:
    series = stage.metrics[line.metric]
    low, high = stage.metrics.get(line.low), stage.metrics.get(line.high)
    curve = plot.Curve(series.steps, series.values, colour, is_exact=panel.is_exact)
    if not band or low is None or high is None:
        return curve
    low_edge, high_edge = (np.interp(series.steps, edge.steps, edge.values) for edge in (low, high))
    return dataclasses.replace(curve, low=low_edge, high=high_edge)


def _ends_of(curve: plot.Curve) -> str:
    values = curve.smoothed()
    return show(values[0]) if len(values) == 1 else f"{show(values[0])} → {show(values[-1])}"
