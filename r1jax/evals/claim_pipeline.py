"""Claims about the pipeline: what each stage is good at, distilling against RL, a reward model that is hacked. See ``claim_kinds``."""

import functools
from typing import Any

import numpy as np

from r1jax.evals.estimates import Estimate, change_of_level, mean_difference, mean_over
from r1jax.evals.finished import Finished, MissingFigureError
from r1jax.evals.protocols import first_and_last, protocol, scored, training
from r1jax.evals.verdicts import Verdict, figure, listed
from r1jax.specs.claims import DistilsClaim, ExposureHacksClaim, StageTableClaim


def stage_table(claim: StageTableClaim) -> Verdict:
    """Each stage's table: evaluate stages by name (Zero, Dev1, ...), figures by column, and the orderings to hold.

    An ordering [column, A, ">", B] holds where the difference A - B is above 0 by its interval, with ">=" where it is not
    below 0 by it. A figure without an interval can be shown, not ordered by.
    """
    stages = {name: Finished(path) for name, path in claim.paths.items()}
    cells = {
        name: {column.name: stage.estimate("tasks", column.task, column.metric) for column in claim.columns}
        for name, stage in stages.items()
    }
    results = []
    for column, first, sign, second in claim.orderings:
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
        protocol=protocol(list(stages.values()), first_and_last),
        table={
            "head": ["stage", *(column.name for column in claim.columns)],
            "rows": [[name, *map(str, row.values())] for name, row in cells.items()],
        },
    )


def distils(claim: DistilsClaim) -> Verdict:
    """The distilled student against RL alone: evaluate (or RL) stages in pairs of a seed, and what training each side took."""
    metric = claim.metric
    sides = {
        "distilled": (claim.distilled_paths, claim.distilled_trained_paths),
        "RL": (claim.rl_paths, claim.rl_trained_paths),
    }
    scores, compute, evaluated = {}, {}, []
    for name, (paths, trained) in sides.items():
        stages = [Finished(path) for path in paths]
        scores[name] = [stage.score(metric, task=claim.task) for stage in stages]
        evaluated += stages
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
            **{name: listed(levels) for name, levels in scores.items()},
            "difference": difference.to_json(),
            "compute": compute,
        },
        held=difference.is_above_zero,
        rule=f"{metric} of the distilled model is higher by the 95 % interval of the difference",
        protocol=protocol(evaluated, functools.partial(scored, metric=metric)),
    )


def exposure_hacks(claim: ExposureHacksClaim) -> Verdict:
    """A long and a short RL run on a preference model, by what the model, the truth and rules say at their ends.

    The RL stages' curves are drawn; with evaluate stages of both, held-out problems decide.
    """
    model, phases = claim.model, claim.phases
    trained = {"long": Finished(claim.long_path), "short": Finished(claim.short_path)}
    evaluated = None
    if claim.long_evaluated_path and claim.short_evaluated_path:
        evaluated = {"long": Finished(claim.long_evaluated_path), "short": Finished(claim.short_evaluated_path)}
    change, texts, figures = {}, [], []
    values: dict[str, Any] = {}
    for name, metric, words, where in (
        ("model", model, "the model's score", (claim.general_task, model)),
        ("true", claim.true, "the true score", (claim.general_task, claim.true)),
        ("reasoning", claim.reasoning, "reasoning", (claim.reasoning_task, claim.score)),
    ):
        if evaluated:
            levels = {which: stage.estimate("tasks", *where) for which, stage in evaluated.items()}
            change[name] = mean_difference([levels["long"]], [levels["short"]])
        else:
            ends = {which: stage.series(metric, least=phases)[1][-phases:].tolist() for which, stage in trained.items()}
            levels = {which: Estimate(float(np.mean(level))) for which, level in ends.items()}
            change[name] = change_of_level(ends["short"], ends["long"])
        of_both = {which: estimate.to_json() for which, estimate in levels.items()}
        values[name] = {"metric": metric, **of_both, "change": change[name].to_json()}
        texts.append(f"{words} {levels['short']} → {levels['long']}, change {change[name]}")
        curves = [curve for which, stage in trained.items() for curve in stage.curves(which, metric)]
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
        protocol=protocol(list((evaluated or trained).values()), first_and_last if evaluated else training),
        figures=tuple(figures),
    )


def _updates_with(stage: Finished, metric: str) -> int:
    """How many updates were logged with a metric, which may have joined late: rows stand for as many updates each."""
    steps, _ = stage.series(metric)
    of_a_row = int(np.diff(steps).min()) if len(steps) > 1 else 1
    return int(steps[-1] - steps[0]) + of_a_row
