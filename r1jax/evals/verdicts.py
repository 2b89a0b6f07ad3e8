"""What the runs here say of a claim, and the figures that go with it: plain data, for claims.json and the report."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from r1jax.evals.estimates import Estimate
from r1jax.evals.finished import Finished


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the runs say of a claim; all of it JSON-able."""

    ours: str
    """The figures in a sentence."""
    values: dict[str, Any]
    """Every figure that it rests on, with intervals and by run."""
    held: bool | None
    rule: str
    """How ``held`` follows from the figures."""
    protocol: tuple[str, ...] = ()
    """How the figures were computed: runs and bases, problems, samples, temperature."""
    figures: tuple[dict[str, Any], ...] = ()
    """What the report draws; see ``figure``."""
    table: dict[str, Any] | None = None
    """{"head": [...], "rows": [[text, ...], ...]}."""


def figure(title: str, unit: str, curves: Sequence[dict[str, Any]], *, across: str = "update") -> dict[str, Any]:
    """A plot of curves: ``unit`` is the vertical axis's, ``across`` the horizontal one's."""
    return {"title": title, "unit": unit, "across": across, "curves": list(curves)}


def every(facts: Iterable[bool | None]) -> bool | None:
    """Whether all are true; None if one of them is unknown and none is false."""
    seen = set(facts)
    return False if False in seen else None if None in seen else True


def limits_of(stage: Finished, *keys: str) -> tuple[float, float]:
    """The interval of a figure of summary.json. Raises MissingFigureError where it has none."""
    estimate = stage.estimate(*keys)
    if estimate.low is None or estimate.high is None:
        raise stage.missing(f"{'.'.join(keys)} has no interval")
    return estimate.low, estimate.high


def seeds(stages: Sequence[Finished]) -> dict[str, Any]:
    """The seeds of runs, for ``Verdict.values``."""
    return {"seeds": [stage.seed for stage in stages]}


def runs(stages: Sequence[Finished]) -> str:
    """How many runs, and of which seeds: "3 seeds: 0, 1, 2"."""
    count = f"{len(stages)} seed{'s' if len(stages) > 1 else ''}"
    return f"{count}: {', '.join(str(stage.seed) for stage in stages)}"


def listed(estimates: Sequence[Estimate]) -> list[dict[str, float | None]]:
    """The estimates, JSON-able."""
    return [estimate.to_json() for estimate in estimates]
