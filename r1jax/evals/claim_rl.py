"""Claims about what RL alone does: it teaches, lengthens, mixes languages; and about what voting adds. See ``claim_kinds``."""

import functools

import numpy as np

from r1jax.evals.estimates import FEWEST_SEEDS, Estimate, mean_difference, mean_over
from r1jax.evals.finished import Finished
from r1jax.evals.protocols import along_the_way, first_and_last, protocol, scored, training
from r1jax.evals.verdicts import Verdict, every, figure, limits_of, listed, runs, seeds
from r1jax.specs.claims import LanguageRepairedClaim, LengthensClaim, TeachesClaim, VotesClaim


def teaches(claim: TeachesClaim) -> Verdict:
    """Held-out scores before and after RL, one RL stage a seed."""
    stages = [Finished(path) for path in claim.paths]
    texts, values, is_better, figures = [], seeds(stages), True, []
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


def lengthens(claim: LengthensClaim) -> Verdict:
    """Length and reflection words, first against last phases of RL stages, one a seed."""
    stages, phases = [Finished(path) for path in claim.paths], claim.phases
    texts, values, changes, figures = [], seeds(stages) | {"phases": phases}, [], []
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
    return Verdict(
        ours=f"{'; '.join(texts)} ({runs(stages)})",
        values=values,
        held=every(change.is_above_zero for change in changes),
        rule=f"the change of both from the first to the last {phases} phases is above 0 by its 95 % interval over seeds "
        f"(which needs {FEWEST_SEEDS} of them)",
        protocol=protocol(stages, training),
        figures=tuple(figures),
    )


def language_repaired(claim: LanguageRepairedClaim) -> Verdict:
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
    values = seeds(sides["with"]) | {
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


def votes(claim: VotesClaim) -> Verdict:
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
