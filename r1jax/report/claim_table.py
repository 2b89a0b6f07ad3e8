"""The claims of the paper and what came of them here: a table, and what each verdict rests on."""

from typing import Any

import numpy as np

from r1jax.report import plot
from r1jax.report.figures import figure
from r1jax.report.markup import escape, table
from r1jax.report.panels import Panel
from r1jax.workdir.read import Run, number, read_json

_MAX_TEXT = 600  # characters of a cell


def claims_section(run: Run) -> str:
    """HTML: the claims of every stage that has claims.json; "" without one."""
    parts, notes = [], []
    for stage in run.stages:
        rows = _dicts(read_json(stage.path / "claims.json", notes, list))
        if not rows:
            continue
        if isinstance(note := stage.config.get("note"), str):
            parts.append(f"<p>{escape(note)}</p>")
        lines = table([_line(row) for row in rows], head=["claim", "paper", "ours", "held"])
        parts.append(f'<div class="claims">{lines}</div>')
        parts += [_details(row, name=f"{stage.name} {index}") for index, row in enumerate(rows)]
    parts += [f'<p class="note">{escape(note)}</p>' for note in notes]
    return f"<h2>The paper's claims</h2>{''.join(parts)}" if parts else ""


def _line(row: dict[str, Any]) -> list[str]:
    """Of a claim: what it says, the paper's figures, ours with how they were computed below, and whether it held."""
    protocol = row.get("protocol")
    sentences = [escape(str(text)[:_MAX_TEXT]) for text in protocol] if isinstance(protocol, list) else []
    below = f'<small class="protocol">{"<br>".join(sentences)}</small>' if sentences else ""
    held = row.get("held")
    look, word = ("good", "yes") if held is True else ("bad", "no") if held is False else ("quiet", "open")
    claim, verdict = f'<span class="wide">{_text(row, "claim")}</span>', f'<span class="{look}">{word}</span>'
    return [claim, _text(row, "paper"), _text(row, "ours") + below, verdict]


def _details(row: dict[str, Any], *, name: str) -> str:
    """The rule of a verdict, its table and its figures, to be folded away."""
    figures = [drawn for one in _dicts(row.get("figures")) if (drawn := _drawn(one, name=name))]
    grid = f'<div class="grid">{"".join(figures)}</div>' if figures else ""
    counts = f" <small>({len(figures)} figure{'s' * (len(figures) > 1)})</small>" if figures else ""
    return (
        f"<details open><summary>{_text(row, 'claim')}{counts}</summary>"
        f"<p>Held if: {_text(row, 'rule')}.</p>{_cells(row.get('table'))}{grid}</details>"
    )


def _cells(cells: Any) -> str:
    if not isinstance(cells, dict) or not isinstance(cells.get("rows"), list):
        return ""
    rows = [[escape(cell) for cell in row] for row in cells["rows"] if isinstance(row, list)]
    head = cells.get("head")
    return table(rows, head=[escape(cell) for cell in head] if isinstance(head, list) else None)


def _drawn(one: dict[str, Any], *, name: str) -> str:
    """A figure of claims.json; "" where nothing of it can be drawn. Curves of one run have one colour."""
    curves, colours = [], {}
    for line in _dicts(one.get("curves")):
        steps, values, low, high = (_numbers(line.get(key)) for key in ("steps", "values", "low", "high"))
        if not len(values) or len(steps) != len(values):
            continue
        if not len(low) == len(high) == len(values):
            low = high = None
        label = str(line.get("label", ""))
        colour = colours.setdefault(str(line.get("run", label)), len(colours))
        is_points = line.get("is_points") is True
        curves.append(plot.Curve(steps, values, colour, low, high, label, is_points=is_points))
    if not curves:
        return ""
    title, unit, across = (str(one.get(key, "")) for key in ("title", "unit", "across"))
    drawn = figure(Panel(title, unit, across=across), curves, name=f"{name} {title}")
    return drawn if drawn.startswith("<figure>") else f"<p>{drawn}</p>"


def _numbers(values: Any) -> np.ndarray:
    """The list as an array; empty if it is none, or holds what is no finite number."""
    array = np.array([number(value) for value in values] if isinstance(values, list) else [])
    return array if np.isfinite(array).all() else np.array([])


def _dicts(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _text(row: dict[str, Any], key: str) -> str:
    return escape(str(row.get(key, ""))[:_MAX_TEXT])
