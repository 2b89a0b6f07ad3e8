"""Whether a claim of the paper held here: from what finished stages wrote, by a stated rule.

Each kind of claim is a function that takes its spec (``r1jax.specs.claims``) and gives a ``Verdict``; ``held`` follows
from the figures by ``rule``, and is None where there are too few runs to say. Intervals are of 95 %: over seeds from
three runs on (Student's t), else over problems. Nothing here knows a figure of the paper: a claim's config quotes it. A
stage that lacks a figure is a MissingFigureError.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.evals.estimates import FEWEST_SEEDS, Estimate, change_of_level, mean_difference, mean_over
from r1jax.evals.finished import Finished, MissingFigureError, protocol_of
from r1jax.specs import claims as specs


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the runs say of a claim; all of it JSON-able."""

    ours: str  # the figures in a sentence
    values: dict[str, Any]  # every figure that it rests on, with intervals and by run
    held: bool | None
    rule: str  # how ``held`` follows from the figures
    protocol: tuple[str, ...] = ()  # how the figures were computed: runs and bases, problems, samples, temperature
    figures: tuple[dict[str, Any], ...] = ()  # what the report draws: {"title", "unit", "across", "curves"}
    table: dict[str, Any] | None = None  # {"head": [...], "rows": [[text, ...], ...]}


def teaches(claim: specs.TeachesClaim) -> Verdict:
    """Held-out scores before and after RL, one RL stage a seed."""
    stages = [Finished(path) for path in claim.paths]
    texts: list[str] = []
    values: dict[str, Any] = {"seeds": [stage.seed for stage in stages]}
    for metric in claim.metrics:
        ends = {when: [stage.estimate(when, metric) for stage in stages] for when in ("before", "after")}
        _, text, values[metric] = _compared(ends, "gain")
        texts.append(f"{metric} {text}")
    figures = [
        _figure(f"Held-out {metric}", "share of problems", _curves_by_seed(logged, f"eval/{metric}"))
        for metric in claim.metrics
        if (logged := [stage for stage in stages if stage.has_series(f"eval/{metric}")])
    ]
    is_above = [
        stage.limits("after", metric)[0] > stage.limits("before", metric)[1]
        for metric in claim.metrics
        for stage in stages
    ]
    ways = [Finished.how_held_out, *([lambda stage: stage.how_held_out(is_full=False)] if figures else [])]
    return Verdict(
        ours=f"{'; '.join(texts)} ({_runs(stages)})",
        values=values,
        held=False not in is_above,
        rule=f"of every seed and of {' and '.join(claim.metrics)}: the 95 % interval over problems after RL lies above that before",
        protocol=protocol_of(stages, *ways),
        figures=tuple(figures),
    )


def lengthens(claim: specs.LengthensClaim) -> Verdict:
    """Length and reflection words, first against last phases of RL stages, one a seed."""
    stages, phases = [Finished(path) for path in claim.paths], claim.phases
    values: dict[str, Any] = {"seeds": [stage.seed for stage in stages], "phases": phases}
    texts, rises, figures = [], [], []
    for metric, words, unit in (
        (claim.length, "mean length", "tokens"),
        (claim.reflection, "reflection words a response", "words"),
    ):
        levels = [stage.series(metric, least=2 * phases)[1] for stage in stages]
        ends = {"first": [level[:phases] for level in levels], "last": [level[-phases:] for level in levels]}
        means = {when: [Estimate(float(np.mean(part))) for part in parts] for when, parts in ends.items()}
        change, text, values[metric] = _compared(means, "change")
        first, last = (mean_over(of_runs).value for of_runs in means.values())
        values[metric]["ratio"] = last / first if first else None
        texts.append(f"{words} {text}" + (f" (× {last / first:.2f})" if first else ""))
        rises.append(change.is_above_zero)
        figures.append(_figure(words.capitalize(), unit, _curves_by_seed(stages, metric)))
    return Verdict(
        ours=f"{'; '.join(texts)} ({_runs(stages)})",
        values=values,
        held=False if False in rises else None if None in rises else True,
        rule=f"the change of both from the first to the last {phases} phases is above 0 by its 95 % interval over seeds "
        f"(which needs {FEWEST_SEEDS} of them)",
        protocol=protocol_of(stages, Finished.how_trained),
        figures=tuple(figures),
    )


def language_repaired(claim: specs.LanguageRepairedClaim) -> Verdict:
    """Consistency and score with and without the language reward: RL or evaluate stages, in pairs of the same seed."""
    sides = {
        "without": [Finished(path) for path in claim.without_paths],
        "with": [Finished(path) for path in claim.with_paths],
    }

    def levels(metric: str) -> dict[str, list[Estimate]]:
        how = {"task": claim.task, "phases": claim.phases}
        return {name: [stage.score(metric, **how) for stage in side] for name, side in sides.items()}

    repaired, consistency, of_consistency = _compared(levels(claim.consistency), "difference")
    cost, score, of_score = _compared(levels(claim.score), "difference")
    curves = [
        curve
        for name in ("with", "without")
        for stage in sides[name]
        if stage.has_series(claim.consistency)
        for curve in stage.curves(f"{name}, seed {stage.seed}", claim.consistency)
    ]
    return Verdict(
        ours=f"without → with: consistency {consistency}; {claim.score} {score} ({_runs(sides['with'])} each)",
        values={
            "seeds": [stage.seed for stage in sides["with"]],
            "consistency": of_consistency,
            "score": of_score,
        },
        held=repaired.is_above_zero and cost.value >= -claim.max_cost,
        rule=f"consistency is higher with the reward by the 95 % interval of the difference, and {claim.score} lower by at most "
        f"{claim.max_cost}",
        protocol=protocol_of(
            [*sides["with"], *sides["without"]],
            lambda stage: stage.how_scored(claim.consistency),
            lambda stage: stage.how_scored(claim.score),
        ),
        figures=(_figure("Language consistency", "share of words", curves),) if curves else (),
    )


def votes(claim: specs.VotesClaim) -> Verdict:
    """cons@k against k, of an evaluate stage whose "cons_at" has all of the sizes."""
    stage, task, sizes = Finished(claim.path), claim.task, sorted(claim.sizes)
    levels = {f"cons@{size}": stage.estimate("tasks", task, f"cons@{size}") for size in sizes}
    low, high = zip(*(stage.limits("tasks", task, name) for name in levels), strict=True)
    gain = stage.estimate("tasks", task, f"cons@{sizes[-1]}_gain")
    drawn = {"label": task, "steps": sizes, "values": [level.value for level in levels.values()]}
    drawn |= {"low": list(low), "high": list(high)}
    return Verdict(
        ours=f"{', '.join(f'{name} {level}' for name, level in levels.items())}; cons@{sizes[-1]} less pass@1: {gain}",
        values={name: level.to_json() for name, level in levels.items()} | {"gain": gain.to_json()},
        held=gain.is_above_zero,
        rule=f"cons@{sizes[-1]} is higher than pass@1 by the 95 % interval of their difference over problems",
        protocol=protocol_of([stage], Finished.how_held_out),
        figures=(_figure("Majority vote", "share of problems", [drawn], across="samples in the vote"),),
    )


def stage_table(claim: specs.StageTableClaim) -> Verdict:
    """Each stage's table: evaluate stages by name (Zero, Dev1, ...), figures by column, and the orderings to hold.

    An ordering [column, A, ">", B] holds where the difference A - B is above 0 by its interval, with ">=" where it is
    not below 0 by it. A figure without an interval can be shown, not ordered by.
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
        protocol=protocol_of(list(stages.values()), Finished.how_held_out),
        table={
            "head": ["stage", *(column.name for column in claim.columns)],
            "rows": [[name, *map(str, row.values())] for name, row in cells.items()],
        },
    )


def distils(claim: specs.DistilsClaim) -> Verdict:
    """The distilled student against RL alone: evaluate (or RL) stages in pairs of a seed, and what training each side took."""
    metric = claim.metric
    evaluated = {
        "RL": [Finished(path) for path in claim.rl_paths],
        "distilled": [Finished(path) for path in claim.distilled_paths],
    }
    scores = {name: [stage.score(metric, task=claim.task) for stage in side] for name, side in evaluated.items()}
    difference, _, values = _compared(scores, "difference")
    compute, took = {}, []
    for name, paths in (("distilled", claim.distilled_trained_paths), ("RL", claim.rl_trained_paths)):
        stages = [Finished(path) for path in paths]
        tokens = sum(stage.training_tokens() for stage in stages)
        seconds = sum(stage.summary("wall_seconds") for stage in stages)
        names = [stage.name for stage in stages]
        compute[name] = {"stages": names, "training_tokens": tokens, "wall_seconds": seconds}
        took += [f"{name}: {tokens / 1e6:.2f}M tokens, {seconds / 60:.1f} min"] if stages else []
    return Verdict(
        ours=f"{metric} {mean_over(scores['distilled'])} distilled, {mean_over(scores['RL'])} by RL, difference {difference}"
        + (f" (training: {'; '.join(took)})" if took else ""),
        values={"metric": metric, **values, "compute": compute},
        held=difference.is_above_zero,
        rule=f"{metric} of the distilled model is higher by the 95 % interval of the difference",
        protocol=protocol_of([*evaluated["distilled"], *evaluated["RL"]], lambda stage: stage.how_scored(metric)),
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
        figures.append(_figure(f"Exposure: {words}", "reward", curves))
    falls = [name for name in ("true", "reasoning") if change[name].is_below_zero]
    updates = {which: _updates_with(stage, model) for which, stage in trained.items()}
    compared = "on held-out problems" if evaluated else f"over the last {phases} phases of each run"
    return Verdict(
        ours=f"{updates['short']} → {updates['long']} updates with the model: {'; '.join(texts)}",
        values=values | {"updates": updates, "compared": compared},
        held=bool(change["model"].is_above_zero) and bool(falls),
        rule=f"{compared} the model's score is higher in the long one, and the true score or reasoning is lower, "
        "each by the 95 % interval of the difference",
        protocol=protocol_of(
            list((evaluated or trained).values()), Finished.how_held_out if evaluated else Finished.how_trained
        ),
        figures=tuple(figures),
    )


def _runs(stages: Sequence[Finished]) -> str:
    """How many runs, and of which seeds: "3 seeds: 0, 1, 2"."""
    return f"{len(stages)} seed{'s' * (len(stages) > 1)}: {', '.join(str(stage.seed) for stage in stages)}"


def _compared(sides: Mapping[str, Sequence[Estimate]], name: str) -> tuple[Estimate, str, dict[str, Any]]:
    """(difference, text, JSON) of two sides of a claim, which are runs in pairs: how much more the second has, by ``name``."""
    first, second = sides.values()
    difference = mean_difference(second, first)
    values: dict[str, Any] = {side: [run.to_json() for run in runs] for side, runs in sides.items()}
    text = f"{mean_over(first)} → {mean_over(second)}, {name} {difference}"
    return difference, text, values | {name: difference.to_json()}


def _curves_by_seed(stages: Sequence[Finished], metric: str) -> list[dict[str, Any]]:
    return [curve for stage in stages for curve in stage.curves(f"seed {stage.seed}", metric)]


def _figure(title: str, unit: str, curves: Sequence[dict[str, Any]], *, across: str = "update") -> dict[str, Any]:
    """A plot of curves: ``unit`` is the vertical axis's, ``across`` the horizontal one's."""
    return {"title": title, "unit": unit, "across": across, "curves": list(curves)}


def _updates_with(stage: Finished, metric: str) -> int:
    """How many updates were logged with a metric, which may have joined late: rows stand for as many updates each."""
    steps, _ = stage.series(metric)
    of_a_row = int(np.diff(steps).min()) if len(steps) > 1 else 1
    return int(steps[-1] - steps[0]) + of_a_row


VERDICT_OF: dict[type, Callable[[Any], Verdict]] = {
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
    return VERDICT_OF[type(claim)](claim)
