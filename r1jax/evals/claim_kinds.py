"""Whether a claim of the paper held here: from what finished stages wrote, by a stated rule.

Each kind of claim is a function that takes its spec (``r1jax.specs.claims``) and gives a ``Verdict``; ``held`` follows from the
figures by ``rule``, and is None where there are too few runs to say. Intervals are of 95 %: over seeds from three runs on
(Student's t), else over problems. Nothing here knows a figure of the paper: a claim's config quotes it. A stage that lacks a
figure is a MissingFigureError.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from r1jax.evals.estimates import FEWEST_SEEDS, Estimate, change_of_level, mean_difference, mean_over
from r1jax.evals.finished import Finished, MissingFigureError
from r1jax.evals.verdicts import (
    Verdict,
    along_the_way,
    figure,
    first_and_last,
    limits_of,
    listed,
    protocol,
    runs,
    scored,
    training,
)
from r1jax.specs import claims as specs


def teaches(claim: specs.TeachesClaim) -> Verdict:
    """Held-out scores before and after RL, one RL stage a seed."""
    stages = [Finished(path) for path in claim.paths]
    values: dict[str, Any] = {"seeds": [stage.seed for stage in stages]}
    texts, is_better, figures = [], True, []
    for metric in claim.metrics:
        before, after = ([stage.estimate(when, metric) for stage in stages] for when in ("before", "after"))
        gain = mean_difference(after, before)
        values[metric] = {"before": listed(before), "after": listed(after), "gain": gain.to_json()}
        texts.append(f"{metric} {mean_over(before)} → {mean_over(after)}, gain {gain}")
        for stage in stages:
            is_better &= limits_of(stage, "after", metric)[0] > limits_of(stage, "before", metric)[1]
        logged = [stage for stage in stages if stage.has_series(f"eval/{metric}")]
        if logged:
            curves = [curve for stage in logged for curve in stage.curves(f"seed {stage.seed}", f"eval/{metric}")]
            figures.append(figure(f"Held-out {metric}", "share of problems", curves))
    return Verdict(
        ours=f"{'; '.join(texts)} ({runs(stages)})",
        values=values,
        held=is_better,
        rule=f"of every seed and of {' and '.join(claim.metrics)}: the 95 % interval over problems after RL lies above that before",
        protocol=protocol(stages, first_and_last, *([along_the_way] if figures else [])),
        figures=tuple(figures),
    )


def lengthens(claim: specs.LengthensClaim) -> Verdict:
    """Length and reflection words, first against last phases of RL stages, one a seed."""
    stages, phases = [Finished(path) for path in claim.paths], claim.phases
    values: dict[str, Any] = {"seeds": [stage.seed for stage in stages], "phases": phases}
    texts, changes, figures = [], [], []
    for metric, words in ((claim.length, "mean length"), (claim.reflection, "reflection words a response")):
        levels = [stage.series(metric, least=2 * phases)[1] for stage in stages]
        first = [Estimate(float(np.mean(level[:phases]))) for level in levels]
        last = [Estimate(float(np.mean(level[-phases:]))) for level in levels]
        changes.append(mean_difference(last, first))
        start, end = mean_over(first), mean_over(last)
        ratio = end.value / start.value if start.value else None
        values[metric] = {"first": listed(first), "last": listed(last), "change": changes[-1].to_json(), "ratio": ratio}
        times = "" if ratio is None else f" (× {ratio:.2f})"
        texts.append(f"{words} {start} → {end}{times}, change {changes[-1]}")
        curves = [curve for stage in stages for curve in stage.curves(f"seed {stage.seed}", metric)]
        figures.append(figure(words.capitalize(), "tokens" if metric == claim.length else "words", curves))
    rises = [change.is_above_zero for change in changes]
    return Verdict(
        ours=f"{'; '.join(texts)} ({runs(stages)})",
        values=values,
        held=False if False in rises else None if None in rises else True,
        rule=f"the change of both from the first to the last {phases} phases is above 0 by its 95 % interval over seeds "
        f"(which needs {FEWEST_SEEDS} of them)",
        protocol=protocol(stages, training),
        figures=tuple(figures),
    )


def language_repaired(claim: specs.LanguageRepairedClaim) -> Verdict:
    """Consistency and score with and without the language reward: RL or evaluate stages, in pairs of the same seed."""
    consistency, score = claim.consistency, claim.score
    sides = {
        "with": [Finished(path) for path in claim.with_paths],
        "without": [Finished(path) for path in claim.without_paths],
    }
    levels = {
        metric: [
            [stage.score(metric, task=claim.task, phases=claim.phases) for stage in side] for side in sides.values()
        ]
        for metric in (consistency, score)
    }
    gain, cost = (mean_difference(*levels[metric]) for metric in (consistency, score))
    values: dict[str, Any] = {"seeds": [stage.seed for stage in sides["with"]]} | {
        name: {"with": listed(levels[metric][0]), "without": listed(levels[metric][1]), "difference": one.to_json()}
        for name, metric, one in (("consistency", consistency, gain), ("score", score, cost))
    }
    curves = [
        curve
        for name, side in sides.items()
        for stage in side
        if stage.has_series(consistency)
        for curve in stage.curves(f"{name}, seed {stage.seed}", consistency)
    ]
    repaired = gain.is_above_zero
    ways = [functools.partial(scored, metric=metric) for metric in (consistency, score)]
    return Verdict(
        ours=f"consistency {mean_over(levels[consistency][1])} without → {mean_over(levels[consistency][0])} with, "
        f"difference {gain}; {score} {mean_over(levels[score][1])} → {mean_over(levels[score][0])}, difference {cost} "
        f"({runs(sides['with'])} each)",
        values=values,
        held=None if repaired is None else repaired and cost.value >= -claim.max_cost,
        rule=f"consistency is higher with the reward by the 95 % interval of the difference, and {score} lower by at most "
        f"{claim.max_cost}",
        protocol=protocol([*sides["with"], *sides["without"]], *ways),
        figures=(figure("Language consistency", "share of words", curves),) if curves else (),
    )


def votes(claim: specs.VotesClaim) -> Verdict:
    """cons@k against k, of an evaluate stage whose "cons_at" has all of the sizes."""
    stage, task, sizes = Finished(claim.path), claim.task, sorted(claim.sizes)
    levels = [stage.estimate("tasks", task, f"cons@{size}") for size in sizes]
    limits = [limits_of(stage, "tasks", task, f"cons@{size}") for size in sizes]
    gain = stage.estimate("tasks", task, f"cons@{sizes[-1]}_gain")
    drawn = {"label": task, "steps": sizes, "values": [estimate.value for estimate in levels]}
    drawn |= {"low": [low for low, _ in limits], "high": [high for _, high in limits]}
    return Verdict(
        ours=", ".join(f"cons@{size} {estimate}" for size, estimate in zip(sizes, levels, strict=True))
        + f"; cons@{sizes[-1]} less pass@1: {gain}",
        values={f"cons@{size}": one.to_json() for size, one in zip(sizes, levels, strict=True)}
        | {"gain": gain.to_json()},
        held=gain.is_above_zero,
        rule=f"cons@{sizes[-1]} is higher than pass@1 by the 95 % interval of their difference over problems",
        protocol=protocol([stage], first_and_last),
        figures=(figure("Majority vote", "share of problems", [drawn], across="samples in the vote"),),
    )


def stage_table(claim: specs.StageTableClaim) -> Verdict:
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


def distils(claim: specs.DistilsClaim) -> Verdict:
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


def exposure_hacks(claim: specs.ExposureHacksClaim) -> Verdict:
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


KINDS: dict[type, Callable[[Any], Verdict]] = {
    specs.TeachesClaim: teaches,
    specs.LengthensClaim: lengthens,
    specs.LanguageRepairedClaim: language_repaired,
    specs.StageTableClaim: stage_table,
    specs.DistilsClaim: distils,
    specs.ExposureHacksClaim: exposure_hacks,
    specs.VotesClaim: votes,
}
"""The spec of a claim -> the function that decides it."""


def judge_claim(claim: specs.AnyClaim) -> Verdict:
    """Whether a claim held."""
    return KINDS[type(claim)](claim)
