"""The claims of the paper and what came of them here: a table, and what each verdict rests on."""

from typing import Any

import numpy as np

from r1jax.report import plot
from r1jax.report.figures import Drawn, draw_panel
from r1jax.report.markup import visible
from r1jax.report.panels import Panel
from r1jax.workdir.read import Stage, to_float


def claims(stage: Stage) -> list[dict[str, Any]]:
    """The rows of claims.json, with what is a list there, and with their figures drawn."""
    return [_claim(row, name=f"{stage.name} {index}") for index, row in enumerate(_of(dict, stage.claims))]


def _claim(row: dict[str, Any], *, name: str) -> dict[str, Any]:
    cells = row["table"] if isinstance(row.get("table"), dict) else {}
    figures = [drawn for one in _of(dict, row.get("figures")) if (drawn := _drawn(one, name=name))]
    return row | {
        "protocol": _of(str, row.get("protocol")),
        "head": _of(str, cells.get("head")),
        "rows": _of(list, cells.get("rows")),
        "figures": [figure for figure in figures if isinstance(figure, Drawn)],
        "constant": [figure for figure in figures if isinstance(figure, str)],
    }


def _drawn(one: dict[str, Any], *, name: str) -> Drawn | str:
    """A figure of claims.json; "" where nothing of it can be drawn. Curves of one run have one look."""
    curves, looks = [], {}
    for line in _of(dict, one.get("curves")):
        steps, values, low, high = (_numbers(line.get(key)) for key in ("steps", "values", "low", "high"))
        if not len(values) or len(steps) != len(values):
            continue
        if not len(low) == len(high) == len(values):
            low = high = None
        label = str(line.get("label", ""))
        look = looks.setdefault(str(line.get("run", label)), len(looks))
        is_points = line.get("is_points") is True
        curves.append(plot.Curve(steps, values, look, low, high, label, is_points=is_points))
    title, unit, across = (visible(str(one.get(key, ""))) for key in ("title", "unit", "across"))
    return draw_panel(Panel(title, unit, across=across), curves, name=f"{name} {title}") if curves else ""


def _numbers(values: Any) -> np.ndarray:
    """The list as an array; empty if it is none, or holds what is no finite number."""
    array = np.array([to_float(value) for value in values] if isinstance(values, list) else [])
    return array if np.isfinite(array).all() else np.array([])


def _of(kind: type, values: Any) -> list[Any]:
    """What is of a kind in a list; nothing where there is no list."""
    return [value for value in values if isinstance(value, kind)] if isinstance(values, list) else []
