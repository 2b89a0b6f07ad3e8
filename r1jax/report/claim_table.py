"""The claims of the paper beside what was found: a table, and what each verdict rests on."""

from typing import Any

import numpy as np

from r1jax.report import plot
from r1jax.report.figures import figure
from r1jax.report.markup import escape, table
from r1jax.report.panels import Panel
from r1jax.workdir.read import Run, number, read_list

_MAX_TEXT = 600  # characters of a cell


def claims_section(run: Run) -> str:
    """HTML: the claims of every stage that has claims.json; "" without one."""
    parts, notes = [], []
    for stage in run.stages:
        rows = read_list(stage.path / "claims.json", notes)
        note = stage.config.get("note")
        if rows and isinstance(note, str):
            parts.append(f"<p>{escape(note)}</p>")
        if rows:
            parts.append(_table(rows))
            parts += [_details(row, place, name=stage.name) for place, row in enumerate(rows)]
    parts += [f'<p class="note">{escape(note)}</p>' for note in notes]
    return f"<h2>The paper's claims</h2>{''.join(parts)}" if parts else ""


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        [
            f'<span class="wide">{_text(row, "claim")}</span>',
            _text(row, "paper"),
            _text(row, "ours"),
            _mark(row.get("held")),
        ]
        for row in rows
    ]
    return table(lines, head=["claim", "paper", "ours", "held"])


def _mark(held: Any) -> str:
    if held is True:
        return '<span class="good">yes</span>'
    if held is False:
        return '<span class="bad">no</span>'
    return '<span class="quiet">open</span>'


def _details(row: dict[str, Any], place: int, *, name: str) -> str:
    """The rule of a verdict, its table and its figures, to be folded away."""
    figures = [drawn for found in _dicts(row.get("figures")) if (drawn := _drawn(found, name=f"{name} {place}"))]
    grid = f'<div class="grid">{"".join(figures)}</div>' if figures else ""
    counts = f" <small>({len(figures)} figures)</small>" if figures else ""
    return (
        f"<details open><summary>{_text(row, 'claim')}{counts}</summary>"
        f"<p>Held if: {_text(row, 'rule')}.</p>{_own_table(row.get('table'))}{grid}</details>"
    )


def _own_table(found: Any) -> str:
    if not isinstance(found, dict) or not isinstance(found.get("rows"), list):
        return ""
    rows = [[escape(cell) for cell in row] for row in found["rows"] if isinstance(row, list)]
    head = found.get("head")
    return table(rows, head=[escape(cell) for cell in head] if isinstance(head, list) else None)


def _drawn(found: dict[str, Any], *, name: str) -> str:
    """A figure of claims.json; "" where nothing of it can be drawn."""
    curves, labels = [], []
    for line in _dicts(found.get("curves")):
        steps, values, low, high = (_numbers(line.get(key)) for key in ("steps", "values", "low", "high"))
        if not len(values) or len(steps) != len(values):
            continue
        if not len(low) == len(high) == len(values):
            low = high = None
        curves.append(plot.Curve(steps, values, len(curves), low=low, high=high))
        labels.append(str(line.get("label", "")))
    if not curves:
        return ""
    title, unit, across = (str(found.get(key, "")) for key in ("title", "unit", "across"))
    return figure(Panel(title, unit, (), across=across), labels, curves, name=f"{name} {title}")


def _numbers(values: Any) -> np.ndarray:
    """The list as an array; empty if it is none, or holds what is no finite number."""
    array = np.array([number(value) for value in values] if isinstance(values, list) else [])
    return array if np.isfinite(array).all() else np.array([])


def _dicts(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _text(row: dict[str, Any], key: str) -> str:
    return escape(str(row.get(key, ""))[:_MAX_TEXT])
