"""Whether a claim of the paper held here: from what finished stages wrote, by a stated rule.

Each function below is a kind of claim. It takes work directories and gives a ``Verdict``; ``held`` follows from the figures
by ``rule``, and is None where there are too few runs to say. Intervals are of 95 %: over seeds from three runs on (Student's
t), else over problems. Nothing here knows a figure of the paper: a claim's config quotes it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.evals.estimates import FEWEST_SEEDS, Estimate, change_of_level, mean_difference, mean_over
from r1jax.evals.finished import Finished, MissingFigureError
from r1jax.evals.verdicts import Verdict, curve, every, figure, limits_of, runs

LENGTH, REFLECTION = "completions/mean_length", "reflection/per_completion"
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
    ("reasoning", "R1", ">=", "Dev1"),
)


def teaches(paths: Sequence[str], *, metrics: Sequence[str] = ("pass@1", "cons@16")) -> Verdict:
    """Pure RL teaches reasoning: held-out scores before and after RL, one RL stage a seed."""
    stages = [Finished(path) for path in paths]
    texts, values, is_better, figures = [], _seeds(stages), True, []
    for metric in metrics:
        before, after = ([stage.estimate(when, metric) for stage in stages] for when in ("before", "after"))
        gain = mean_difference(after, before)
        values[metric] = {"before": _listed(before), "after": _listed(after), "gain": gain.to_json()}
        texts.append(f"{metric} {mean_over(before)} → {mean_over(after)}, gain {gain}")
        for stage in stages:
            is_better &= limits_of(stage, "after", metric)[0] > limits_of(stage, "before", metric)[1]
        logged = [stage for stage in stages if stage.has_series(f"eval/{metric}")]
        if logged:
            curves = [curve(f"seed {stage.seed}", stage, f"eval/{metric}") for stage in logged]
            figures.append(figure(f"Held-out {metric}", "share of problems", curves))
    return Verdict(
        ours=f"{'; '.join(texts)} ({runs(stages)})",
        values=values,
        held=is_better,
        rule=f"of every seed and of {' and '.join(metrics)}: the 95 % interval over problems after RL lies above that before",
        figures=tuple(figures),
    )


def lengthens(paths: Sequence[str], *, phases: int = 5, length: str = LENGTH, reflection: str = REFLECTION) -> Verdict:
    """Responses lengthen and reflection words rise: first against last phases of RL stages, one a seed."""
    stages = [Finished(path) for path in paths]
    texts, values, changes, figures = [], _seeds(stages) | {"phases": phases}, [], []
    for metric, words in ((length, "mean length"), (reflection, "reflection words a response")):
        levels = [stage.series(metric, least=2 * phases)[1] for stage in stages]
        first, last = ([Estimate(float(np.mean(part))) for part in parts] for parts in _ends(levels, phases))
        changes.append(mean_difference(last, first))
        start, end = mean_over(first), mean_over(last)
        ratio = end.value / start.value if start.value else None
        values[metric] = {
            "first": _listed(first),
            "last": _listed(last),
            "change": changes[-1].to_json(),
            "ratio": ratio,
        }
        times = "" if ratio is None else f" (× {ratio:.2f})"
        texts.append(f"{words} {start} → {end}{times}, change {changes[-1]}")
        curves = [curve(f"seed {stage.seed}", stage, metric) for stage in stages]
        figures.append(figure(words.capitalize(), "tokens" if metric == length else "words", curves))
    return Verdict(
        ours=f"{'; '.join(texts)} ({runs(stages)})",
        values=values,
        held=every(change.is_above_zero for change in changes),
        rule=f"the change of both from the first to the last {phases} phases is above 0 by its 95 % interval over seeds "
        f"(which needs {FEWEST_SEEDS} of them)",
        figures=tuple(figures),
    )


def language_repaired(
    with_paths: Sequence[str],
    without_paths: Sequence[str],
    *,
    consistency: str = "rewards/language/mean",
    score: str = "pass@1",
    task: str | None = None,
    max_cost: float = 0.05,
    phases: int = 5,
) -> Verdict:
    """The language reward repairs mixed languages at a small cost: RL or evaluate stages, in pairs of the same seed."""
    sides = [[Finished(path) for path in paths] for paths in (with_paths, without_paths)]
    found = {
        metric: [[stage.score(metric, task=task, phases=phases) for stage in side] for side in sides]
        for metric in (consistency, score)
    }
    gain, cost = (mean_difference(*found[metric]) for metric in (consistency, score))
    values = _seeds(sides[0]) | {
        name: {"with": _listed(found[metric][0]), "without": _listed(found[metric][1]), "difference": one.to_json()}
        for name, metric, one in (("consistency", consistency, gain), ("score", score, cost))
    }
    named = [(name, stage) for name, side in zip(("with", "without"), sides, strict=True) for stage in side]
    curves = [curve(f"{name}, seed {s.seed}", s, consistency) for name, s in named if s.has_series(consistency)]
    repaired = gain.is_above_zero
    return Verdict(
        ours=f"consistency {mean_over(found[consistency][1])} without → {mean_over(found[consistency][0])} with, difference {gain}; "
        f"{score} {mean_over(found[score][1])} → {mean_over(found[score][0])}, difference {cost} ({runs(sides[0])} each)",
        values=values,
        held=None if repaired is None else repaired and cost.value >= -max_cost,
        rule=f"consistency is higher with the reward by the 95 % interval of the difference, and {score} lower by at most {max_cost}",
        figures=(figure("Language consistency", "share of words", curves),) if curves else (),
    )


def check_pairs(first: str, second: str) -> Callable[..., None]:
    """A check that two lists of runs are as long as each other: they are compared in pairs of a seed."""

    def check(**arguments: Any) -> None:
        counts = [len(arguments[name]) for name in (first, second)]
        if counts[0] != counts[1]:
            raise ValueError(f"{first} and {second} are compared in pairs, but they are {counts[0]} and {counts[1]}")

    return check


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
            **{name: _listed(found) for name, found in scores.items()},
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
) -> Verdict:
    """Too long on a preference model hacks it: the ends of a long and a short RL run, by what ``model``, truth and rules say.

    Args:
        long_path, short_path: the RL stages.
        model: metric of the reward model's score in them ("rewards/<name>/mean").
        true: metric of the scripted judge's score, logged only.
        reasoning: metric of the reasoning reward.
        phases: rows at the end of each that are compared, at least 3.
    """
    stages = {"long": Finished(long_path), "short": Finished(short_path)}
    change, texts, figures = {}, [], []
    values: dict[str, Any] = {"phases": phases}
    for name, metric, words in (
        ("model", model, "the model's score"),
        ("true", true, "the true score"),
        ("reasoning", reasoning, "the reasoning reward"),
    ):
        ends = {which: stage.series(metric, least=phases)[1][-phases:].tolist() for which, stage in stages.items()}
        change[name] = change_of_level(ends["short"], ends["long"])
        means = {which: float(np.mean(level)) for which, level in ends.items()}
        values[name] = {"metric": metric, **means, "change": change[name].to_json()}
        texts.append(f"{words} {means['short']:.3g} → {means['long']:.3g}, change {change[name]}")
        curves = [curve(which, stage, metric) for which, stage in stages.items()]
        figures.append(figure(f"Exposure: {words}", "reward", curves))
    falls = [name for name in ("true", "reasoning") if change[name].is_below_zero]
    updates = {which: int(stage.series(model)[0][-1]) for which, stage in stages.items()}
    return Verdict(
        ours=f"{updates['short']} → {updates['long']} updates: {'; '.join(texts)}",
        values=values | {"updates": updates},
        held=bool(change["model"].is_above_zero) and bool(falls),
        rule=f"over the last {phases} phases of each run the model's score is higher in the long one, and the true score or the "
        "reasoning reward is lower, each by the 95 % interval of the difference",
        figures=tuple(figures),
    )


def votes(path: str, *, task: str, sizes: Sequence[int] = (1, 2, 4, 8, 16)) -> Verdict:
    """Majority voting adds: cons@k against k, of an evaluate stage whose "cons_at" has all of ``sizes``."""
    stage, sizes = Finished(path), sorted(sizes)
    found = [stage.estimate("tasks", task, f"cons@{size}") for size in sizes]
    limits = [limits_of(stage, "tasks", task, f"cons@{size}") for size in sizes]
    gain = stage.estimate("tasks", task, f"cons@{sizes[-1]}_gain")
    drawn = {"label": task, "steps": sizes, "values": [estimate.value for estimate in found]}
    drawn |= {"low": [low for low, _ in limits], "high": [high for _, high in limits]}
    return Verdict(
        ours=", ".join(f"cons@{size} {estimate}" for size, estimate in zip(sizes, found, strict=True))
        + f"; cons@{sizes[-1]} less pass@1: {gain}",
        values={f"cons@{size}": one.to_json() for size, one in zip(sizes, found, strict=True)}
        | {"gain": gain.to_json()},
        held=gain.is_above_zero,
        rule=f"cons@{sizes[-1]} is higher than pass@1 by the 95 % interval of their difference over problems",
        figures=(figure("Majority vote", "share of problems", [drawn], across="samples in the vote"),),
    )


def _seeds(stages: Sequence[Finished]) -> dict[str, Any]:
    return {"seeds": [stage.seed for stage in stages]}


def _listed(estimates: Sequence[Estimate]) -> list[dict[str, float | None]]:
    return [estimate.to_json() for estimate in estimates]


def _ends(levels: Sequence[np.ndarray], phases: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The first and the last ``phases`` of each curve."""
    return [level[:phases] for level in levels], [level[-phases:] for level in levels]


KINDS: dict[str, Callable[..., Verdict]] = {
    "teaches": teaches,
    "lengthens": lengthens,
    "language_repaired": language_repaired,
    "stage_table": stage_table,
    "distils": distils,
    "exposure_hacks": exposure_hacks,
    "votes": votes,
}
"""A claim's "kind" -> the function; its parameters are the claim's other keys."""
CHECKS: dict[str, Callable[..., None]] = {
    "language_repaired": check_pairs("with_paths", "without_paths"),
    "stage_table": check_stage_table,
    "distils": check_pairs("distilled_paths", "rl_paths"),
}
"""Of some kinds, what raises ValueError for parameters that do not fit each other; it reads no file."""
