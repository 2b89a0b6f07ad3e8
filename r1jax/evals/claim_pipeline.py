"""Claims about the pipeline: what each stage is good at, distilling against RL, a reward model that is hacked. See ``claims``."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.evals.estimates import FEWEST_SEEDS, Estimate, change_of_level, mean_difference, mean_over
from r1jax.evals.finished import Finished, MissingFigureError
from r1jax.evals.verdicts import Verdict, curve, figure, listed

COLUMNS = (
    {"name": "reasoning", "task": "pair_sum", "metric": "pass@1"},
    {"name": "language consistency", "task": "pair_sum", "metric": "rewards/language/mean"},
    {"name": "well-formed", "task": "pair_sum", "metric": "format"},
    {"name": "helpfulness", "task": "helpful", "metric": "rewards/helpfulness/mean"},
    {"name": "safety", "task": "safety", "metric": "rewards/safety/mean"},
)
"""Of the stage table: what spec D.3's benchmarks are in the mini world."""
ORDERINGS = (
    ("helpfulness", "R1", ">", "Dev3"),
    ("helpfulness", "R1", ">", "Zero"),
    ("safety", "R1", ">", "Dev3"),
    ("safety", "R1", ">", "Zero"),
    ("language consistency", "R1", ">", "Zero"),
    ("reasoning", "R1", ">=", "Dev1"),
)


def check_stage_table(
    paths: Mapping[str, str],
    *,
    columns: Sequence[Mapping[str, str]] = COLUMNS,
    orderings: Sequence[Sequence[str]] = ORDERINGS,
) -> None:
    """Raises ValueError for columns or orderings that do not fit together."""
    for place, column in enumerate(columns):
        if set(column) != {"name", "task", "metric"}:
            raise ValueError(f"columns[{place}]: needs name, task and metric, got {dict(column)}")
    names = [column["name"] for column in columns]
    for place, ordering in enumerate(orderings):
        if len(ordering) != 4 or ordering[2] not in (">", ">="):
            raise ValueError(f"orderings[{place}]: must be [column, stage, '>' or '>=', stage], got {list(ordering)}")
        for what, known in ((ordering[0], names), (ordering[1], list(paths)), (ordering[3], list(paths))):
            if what not in known:
                raise ValueError(f"orderings[{place}]: there is no {what!r}; there are {', '.join(known)}")


def stage_table(
    paths: Mapping[str, str],
    *,
    columns: Sequence[Mapping[str, str]] = COLUMNS,
    orderings: Sequence[Sequence[str]] = ORDERINGS,
) -> Verdict:
    """Each stage's table: evaluate stages by name (Zero, Dev1, ...), figures by column, and the orderings to hold.

    An ordering [column, A, ">", B] holds where the difference A - B is above 0 by its interval, with ">=" where it is not
    below 0 by it. A figure without an interval can be shown, not ordered by.
    """
    check_stage_table(paths, columns=columns, orderings=orderings)
    stages = {name: Finished(path) for name, path in paths.items()}
    cells = {
        name: {column["name"]: stage.estimate("tasks", column["task"], column["metric"]) for column in columns}
        for name, stage in stages.items()
    }
    results = []
    for column, first, sign, second in orderings:
        difference = mean_difference([cells[first][column]], [cells[second][column]])
        if difference.half_width is None:
            raise MissingFigureError(
                f"stages {first} and {second}: {column} has no interval, so they cannot be ordered by it"
            )
        holds = difference.is_above_zero if sign == ">" else not difference.is_below_zero
        text = f"{column}: {first} {sign} {second}"
        results.append({"ordering": text, "difference": difference.to_json(), "holds": holds})
    broken = [result["ordering"] for result in results if not result["holds"]]
    return Verdict(
        ours=f"{len(results) - len(broken)} of {len(results)} orderings hold"
        + (f"; not: {', '.join(broken)}" if broken else ""),
        values={
            "cells": {name: {key: cell.to_json() for key, cell in row.items()} for name, row in cells.items()},
            "orderings": results,
        },
        held=not broken,
        rule=f"by 95 % intervals over problems: {', '.join(result['ordering'] for result in results)} "
        "(> above, >= not below, beyond the interval of the difference)",
        table={
            "head": ["stage", *(column["name"] for column in columns)],
            "rows": [[name, *map(str, row.values())] for name, row in cells.items()],
        },
    )


def distils(
    distilled_paths: Sequence[str],
    rl_paths: Sequence[str],
    *,
    task: str | None = None,
    metric: str = "pass@1",
    distilled_trained_paths: Sequence[str] = (),
    rl_trained_paths: Sequence[str] = (),
) -> Verdict:
    """Distilling beats RL on the small model: evaluate (or RL) stages in pairs of a seed, and what training each side took.

    ``..._trained_paths`` are the stages whose tokens and seconds are stated, of all seeds.
    """
    sides = {"distilled": (distilled_paths, distilled_trained_paths), "RL": (rl_paths, rl_trained_paths)}
    scores, compute = {}, {}
    for name, (scored, trained) in sides.items():
        scores[name] = [Finished(path).score(metric, task=task) for path in scored]
        stages = [Finished(path) for path in trained]
        compute[name] = {
            "stages": [stage.name for stage in stages],
            "training_tokens": sum(stage.training_tokens() for stage in stages),
            "wall_seconds": sum(stage.summary("wall_seconds") for stage in stages),
        }
    difference = mean_difference(scores["distilled"], scores["RL"])
    took = "; ".join(
        f"{name}: {cost['training_tokens'] / 1e6:.2f}M tokens, {cost['wall_seconds'] / 60:.1f} min"
        for name, cost in compute.items()
        if cost["stages"]
    )
    return Verdict(
        ours=f"{metric} {mean_over(scores['distilled'])} distilled, {mean_over(scores['RL'])} by RL, difference {difference}"
        + (f" (training: {took})" if took else ""),
        values={
            "metric": metric,
            **{name: listed(found) for name, found in scores.items()},
            "difference": difference.to_json(),
            "compute": compute,
        },
        held=difference.is_above_zero,
        rule=f"{metric} of the distilled model is higher by the 95 % interval of the difference",
    )


def exposure_hacks(
    long_path: str,
    short_path: str,
    *,
    model: str,
    true: str = "rewards/helpfulness/mean",
    reasoning: str = "rewards/accuracy/mean",
    phases: int = 5,
    long_evaluated_path: str | None = None,
    short_evaluated_path: str | None = None,
    general_task: str = "helpful",
    reasoning_task: str = "pair_sum",
    score: str = "pass@1",
) -> Verdict:
    """Too long on a preference model hacks it: a long and a short RL run, by what ``model``, truth and rules say at their ends.

    Args:
        long_path, short_path: the RL stages, whose curves are drawn.
        model: metric of the reward model's score ("rewards/<name>/mean").
        true: metric of the scripted judge's score, logged only.
        reasoning: metric of the reasoning reward in the RL stages.
        phases: rows at the end of each that are compared, at least 3, where there are no evaluations.
        long_evaluated_path, short_evaluated_path: evaluate stages of the two, both or none; they log ``model`` and ``true``
            on ``general_task``, and have ``score`` on ``reasoning_task``. With them held-out problems decide.
    """
    trained = {"long": Finished(long_path), "short": Finished(short_path)}
    evaluated = None
    if long_evaluated_path and short_evaluated_path:
        evaluated = {"long": Finished(long_evaluated_path), "short": Finished(short_evaluated_path)}
    change, texts, figures = {}, [], []
    values: dict[str, Any] = {}
    for name, metric, words, where in (
        ("model", model, "the model's score", (general_task, model)),
        ("true", true, "the true score", (general_task, true)),
        ("reasoning", reasoning, "reasoning", (reasoning_task, score)),
    ):
        if evaluated:
            found = {which: stage.estimate("tasks", *where) for which, stage in evaluated.items()}
            change[name] = mean_difference([found["long"]], [found["short"]])
        else:
            ends = {which: stage.series(metric, least=phases)[1][-phases:].tolist() for which, stage in trained.items()}
            found = {which: Estimate(float(np.mean(level))) for which, level in ends.items()}
            change[name] = change_of_level(ends["short"], ends["long"])
        of_both = {which: estimate.to_json() for which, estimate in found.items()}
        values[name] = {"metric": metric, **of_both, "change": change[name].to_json()}
        texts.append(f"{words} {found['short']} → {found['long']}, change {change[name]}")
        curves = [curve(which, stage, metric) for which, stage in trained.items()]
        figures.append(figure(f"Exposure: {words}", "reward", curves))
    falls = [name for name in ("true", "reasoning") if change[name].is_below_zero]
    updates = {which: _updates_with(stage, model) for which, stage in trained.items()}
    compared = "on held-out problems" if evaluated else f"over the last {phases} phases of each run"
    return Verdict(
        ours=f"{updates['short']} → {updates['long']} updates with the model: {'; '.join(texts)}",
        values=values | {"updates": updates, "compared": compared},
        held=bool(change["model"].is_above_zero) and bool(falls),
        rule=f"{compared} the model's score is higher in the long one, and the true score or reasoning is lower, "
        "each by the 95 % interval of the difference",
        figures=tuple(figures),
    )


def _updates_with(stage: Finished, metric: str) -> int:
    """How many updates were logged with a metric, which may have joined late: rows stand for as many updates each."""
    steps, _ = stage.series(metric)
    of_a_row = int(np.diff(steps).min()) if len(steps) > 1 else 1
    return int(steps[-1] - steps[0]) + of_a_row


def check_exposure(
    *, phases: int = 5, long_evaluated_path: str | None = None, short_evaluated_path: str | None = None, **others: Any
) -> None:
    """Raises ValueError for one evaluation without the other, or too few phases."""
    if (long_evaluated_path is None) != (short_evaluated_path is None):
        raise ValueError("long_evaluated_path and short_evaluated_path: needs both, or none")
    if phases < FEWEST_SEEDS:
        raise ValueError(f"phases={phases}: needs at least {FEWEST_SEEDS}")
