"""Claims about what RL alone does: it teaches, lengthens, mixes languages; and about what voting adds. See ``claims``."""

from collections.abc import Sequence

import numpy as np

from r1jax.evals.estimates import FEWEST_SEEDS, Estimate, mean_difference, mean_over
from r1jax.evals.finished import Finished
from r1jax.evals.verdicts import Verdict, curve, every, figure, limits_of, listed, runs, seeds

LENGTH, REFLECTION = "completions/mean_length", "reflection/per_completion"


def teaches(paths: Sequence[str], *, metrics: Sequence[str] = ("pass@1", "cons@16")) -> Verdict:
    """Pure RL teaches reasoning: held-out scores before and after RL, one RL stage a seed."""
    stages = [Finished(path) for path in paths]
    texts, values, is_better, figures = [], seeds(stages), True, []
    for metric in metrics:
        before, after = ([stage.estimate(when, metric) for stage in stages] for when in ("before", "after"))
        gain = mean_difference(after, before)
        values[metric] = {"before": listed(before), "after": listed(after), "gain": gain.to_json()}
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
    texts, values, changes, figures = [], seeds(stages) | {"phases": phases}, [], []
    for metric, words in ((length, "mean length"), (reflection, "reflection words a response")):
        levels = [stage.series(metric, least=2 * phases)[1] for stage in stages]
        first, last = ([Estimate(float(np.mean(part))) for part in parts] for parts in _ends(levels, phases))
        changes.append(mean_difference(last, first))
        start, end = mean_over(first), mean_over(last)
        ratio = end.value / start.value if start.value else None
        values[metric] = {
            "first": listed(first),
            "last": listed(last),
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
    values = seeds(sides[0]) | {
        name: {"with": listed(found[metric][0]), "without": listed(found[metric][1]), "difference": one.to_json()}
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


def _ends(levels: Sequence[np.ndarray], phases: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The first and the last ``phases`` of each curve."""
    return [level[:phases] for level in levels], [level[-phases:] for level in levels]
