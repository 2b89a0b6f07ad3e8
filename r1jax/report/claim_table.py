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
        note = stage.config.get("note")
        if rows and isinstance(note, str):
            parts.append(f"<p>{escape(note)}</p>")
        if rows:
            parts.append(f'<div class="claims">{_table(rows)}</div>')
            parts += [_details(row, name=f"{stage.name} {index}") for index, row in enumerate(rows)]
    parts += [f'<p class="note">{escape(note)}</p>' for note in notes]
    return f"<h2>The paper's claims</h2>{''.join(parts)}" if parts else ""


def _table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        claim = f'<span class="wide">{_text(row, "claim")}</span>'
        lines.append([claim, _text(row, "paper"), _text(row, "ours") + _protocol(row), _mark(row.get("held"))])
    return table(lines, head=["claim", "paper", "ours", "held"])


def _protocol(row: dict[str, Any]) -> str:
    """How the figures of a row were computed, below them."""
    sentences = row.get("protocol")
    lines = [escape(str(text)[:_MAX_TEXT]) for text in sentences] if isinstance(sentences, list) else []
    return f'<small class="protocol">{"<br>".join(lines)}</small>' if lines else ""


def _mark(held: Any) -> str:
    look, word = ("good", "yes") if held is True else ("bad", "no") if held is False else ("quiet", "open")
    return f'<span class="{look}">{word}</span>'


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
