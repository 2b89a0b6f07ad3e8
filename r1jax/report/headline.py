"""The figures a person looks for first: before and after, intervals, length, updates, time, seed. All as they were logged."""

import math
import re
from typing import Any

import numpy as np

from r1jax.report.markup import duration, show
from r1jax.workdir.read import Stage, dig, to_float, with_limits


def status(stage: Stage) -> str:
    """Whether the stage is finished, and where it stands."""
    total = stage.config.get("num_updates")
    of = f" of {total:,}" if isinstance(total, int) else ""
    if stage.done:
        at = f" at update {stage.last_step:,}" if stage.has_updates else ""
        return f"finished{at}, {duration(stage.wall_seconds)}"
    if not stage.last_time:
        return "no update recorded yet"
    so_far = f", {duration(stage.wall_seconds)} so far" if math.isfinite(stage.wall_seconds) else ""
    return f"running or stopped at update {stage.last_step:,}{of}{so_far}, last row written {stage.last_time}"


def evaluations(stage: Stage) -> dict[str, dict[str, Any]]:
    """The first and the last held-out evaluation, "before" and "after", by the names of the figures.

    From summary.json, which has no "before" where that was sampled otherwise; while there is none, from the rows of
    full evaluations.
    """
    ends: dict[str, dict[str, Any]] = {"before": {}, "after": {}}
    for name, series in stage.metrics.items():
        full = [part for kind, part in series.by_kind().items() if kind is not None and kind.is_full]
        if full:  # the last kind has the most samples
            ends["before"][name.removeprefix("eval/")] = full[-1].values[0]
        if full and len(full[-1].values) > 1:
            ends["after"][name.removeprefix("eval/")] = full[-1].values[-1]
    if not isinstance(stage.summary.get("after"), dict):
        return ends
    return {when: s if isinstance(s := stage.summary.get(when), dict) else {} for when in ends}


def evaluation_size(stage: Stage, prefix: str) -> str:
    """What an evaluation is measured on, as the config says: of the first and the last with the prefix "final_"; "" if unknown."""
    problems, samples = (dig(stage.config, "eval", f"{prefix}{what}") for what in ("problems", "samples"))
    is_known = isinstance(problems, int) and isinstance(samples, int)
    return f"{problems:,} problems, {samples:,} samples of each" if is_known else ""


def score(stage: Stage, name: str, when: str) -> tuple[float, float, float]:
    """A held-out figure ("pass@1", "mean_length", ...) "before" or "after" and its 95 % interval; nan where unknown."""
    return with_limits(evaluations(stage)[when], name)


def score_names(stage: Stage, *, with_pass_at_k: bool = False) -> list[str]:
    """The held-out scores to lead with: pass@1 and the cons@k of the largest k; the pass@k too if asked for."""
    names = {name for figures in evaluations(stage).values() for name in figures}
    leading = ["pass@1"] if "pass@1" in names else []
    for kind in ("cons", "pass") if with_pass_at_k else ("cons",):
        sizes = [int(name[5:]) for name in names if re.fullmatch(rf"{kind}@[0-9]{{1,9}}", name)]
        leading += [f"{kind}@{max(sizes)}"] if sizes else []
    return list(dict.fromkeys(leading))


def updates_of(stage: Stage) -> int:
    """Updates done: of the summary, else the last row's."""
    updates = to_float(stage.summary.get("updates"))
    return int(updates) if math.isfinite(updates) else stage.last_step


def length_ends(stage: Stage) -> tuple[float, float]:
    """Mean response length in tokens, before and after; of held-out completions where known."""
    before, after = (score(stage, "mean_length", when)[0] for when in ("before", "after"))
    series = stage.metrics.get("completions/mean_length")
    if not (math.isfinite(before) and math.isfinite(after)) and series is not None:
        return series.ends
    return before, after


def headline(stage: Stage) -> list[tuple[str, str, str]]:
    """(figure, what it is, a note) of each card."""
    cards = []
    for name in score_names(stage):
        (before, *first), (after, *last) = score(stage, name, "before"), score(stage, name, "after")
        limits = f"95 %: {first[0]:.3f}–{first[1]:.3f} → {last[0]:.3f}–{last[1]:.3f}"
        is_known = np.isfinite([*first, *last]).all()
        cards.append((f"{show(before)} → {show(after)}", f"held-out {name}", limits if is_known else ""))
    parts = stage.metrics["eval/pass@1"].by_kind() if "eval/pass@1" in stage.metrics and not stage.done else {}
    for kind, part in [(kind, part) for kind, part in parts.items() if kind is not None and not kind.is_full][-1:]:
        cards.append((show(part.ends[1]), f"held-out pass@1 at update {part.steps[-1]:,.0f}", f"{kind}"))
    before, after = length_ends(stage)
    if math.isfinite(before) or math.isfinite(after):
        cards.append((f"{show(round(before, 1))} → {show(round(after, 1))}", "mean response length, tokens", ""))
    named = {"reflection/per_1k_tokens": "reflection words per 1,000 tokens", "reward": "reward"}
    for metric, label in (named if stage.is_rl else named | {"loss": "loss"}).items():
        if series := stage.metrics.get(metric):
            cards.append((" → ".join(show(value) for value in series.ends), label, ""))
    if stage.has_updates:
        cards.append((f"{updates_of(stage):,}", "updates", ""))
    if math.isfinite(stage.wall_seconds):
        cards.append((duration(stage.wall_seconds), "wall time" if stage.done else "wall time so far", ""))
    if stage.seed is not None:
        cards.append((str(stage.seed), "seed", ""))
    return cards
