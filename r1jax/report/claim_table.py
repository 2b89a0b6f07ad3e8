"""The claims of the paper and what came of them here, with what each verdict rests on."""

import contextlib
from typing import Any

import numpy as np

from r1jax.report.figures import Curve, Drawn, draw_panel
from r1jax.report.markup import visible
from r1jax.report.panels import Panel
from r1jax.workdir.read import Stage


def claims(stage: Stage) -> list[dict[str, Any]]:
    """The rows of claims.json (``r1jax.evals.claim_kinds.Verdict``) with their figures drawn; damaged ones are left out."""
    rows = []
    for index, row in enumerate(stage.claims):
        with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
            figures = [_draw(one, name=f"{stage.name} {index}") for one in row["figures"]]
            table = row["table"] or {"head": [], "rows": []}
            drawn = [figure for figure in figures if isinstance(figure, Drawn)]
            constant = [figure for figure in figures if isinstance(figure, str)]
            rows.append(
                row | {"drawn": drawn, "constant": constant, "head": [*table["head"]], "rows": [*table["rows"]]}
            )
    return rows


def _draw(one: dict[str, Any], *, name: str) -> Drawn | str:
    """A figure of claims.json. Curves of one run have one look."""
    curves, looks = [], {}
    for line in one["curves"]:
        steps, values = (np.array(line[key], float) for key in ("steps", "values"))
        low, high = (np.array(line[key], float) if key in line else None for key in ("low", "high"))
        look = looks.setdefault(line.get("run", line["label"]), len(looks))
        curves.append(Curve(steps, values, look, low, high, line["label"], is_points=line.get("is_points", False)))
    panel = Panel(visible(one["title"]), visible(one["unit"]), across=visible(one["across"]))
    return draw_panel(panel, curves, name=f"{name} {panel.title}")
