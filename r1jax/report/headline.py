"""The figures a person looks for first: before and after, intervals, length, updates, time, seed."""

import math
import re

import numpy as np

from r1jax.report.figures import ends
from r1jax.report.markup import duration, escape, show
from r1jax.workdir.read import Stage, flatten, number


def status(stage: Stage) -> str:
    """HTML: whether the stage is finished, and where it stands."""
    total = stage.config.get("num_updates")
    of = f" of {total:,}" if isinstance(total, int) else ""
    if stage.done:
        at = f" at update {stage.last_step:,}" if stage.has_updates else ""
        return f"finished{at}, {duration(stage.wall_seconds)}"
    if not stage.last_time:
        return "no update recorded yet"
    return f"running or stopped at update {stage.last_step:,}{of}, last row written {stage.last_time}"


def score(stage: Stage, name: str, when: str) -> tuple[float, float, float]:
    """A held-out figure and its 95 % interval, (value, low, high); nan where unknown.

    Args:
        stage: the stage.
        name: "pass@1", "cons@16", "mean_length", ...
        when: "before" or "after": from summary.json, else the first or last evaluation in the metrics.
    """
    summary = stage.summary.get(when)
    summary = summary if isinstance(summary, dict) else {}
    index = 0 if when == "before" else -1

    if math.isfinite(number(summary.get(name))):
        return number(summary[name]), number(summary.get(f"{name}_low")), number(summary.get(f"{name}_high"))

    def figure(suffix: str) -> float:
        series = stage.metrics.get(f"eval/{name}{suffix}")
        if series is None or (when == "after" and len(series.values) < 2):
            return math.nan
        return float(series.values[index])

    return figure(""), figure("_low"), figure("_high")


def score_names(stage: Stage) -> list[str]:
    """The held-out scores to lead with: pass@1 and the cons@k of the largest k."""
    names = {name.removeprefix("eval/") for name in stage.metrics if name.startswith("eval/")}
    for when in ("before", "after"):
        if isinstance(stage.summary.get(when), dict):
            names.update(stage.summary[when])
    votes = sorted((name for name in names if re.fullmatch(r"cons@[0-9]+", name)), key=lambda name: int(name[5:]))
    return (["pass@1"] if "pass@1" in names else []) + votes[-1:]


def seed_of(stage: Stage) -> str:
    """The seed as text; "" if none is recorded."""
    seed = stage.summary.get(
        "seed", next((value for key, value in flatten(stage.config) if key.rpartition(".")[2] == "seed"), None)
    )
    return "" if seed is None else str(seed)


def updates_of(stage: Stage) -> int:
    """Updates done: of the summary, else the last row's."""
    updates = number(stage.summary.get("updates"))
    return int(updates) if math.isfinite(updates) else stage.last_step


def length_ends(stage: Stage) -> tuple[float, float]:
    """Mean response length in tokens, before and after; of held-out completions where known."""
    before, after = (score(stage, "mean_length", when)[0] for when in ("before", "after"))
    series = stage.metrics.get("completions/mean_length")
    if not (math.isfinite(before) and math.isfinite(after)) and series is not None:
        return ends(series)
    return before, after


def headline(stage: Stage) -> str:
    """HTML cards."""
    cards = []
    for name in score_names(stage):
        (before, *first), (after, *last) = score(stage, name, "before"), score(stage, name, "after")
        cards.append((f"{show(before)} → {show(after)}", f"held-out {name}", _intervals(first, last)))
    before, after = length_ends(stage)
    if math.isfinite(before) or math.isfinite(after):
        cards.append((f"{show(round(before, 1))} → {show(round(after, 1))}", "mean response length, tokens", ""))
    for metric, label in (
        ("reflection/per_1k_tokens", "reflection words per 1,000 tokens"),
        ("reward", "reward"),
        ("loss", "loss"),
    ):
        series = stage.metrics.get(metric)
        if series is not None and not (metric == "loss" and stage.is_rl):
            cards.append((" → ".join(show(value) for value in ends(series)), label, ""))
    if stage.has_updates:
        cards.append((f"{updates_of(stage):,}", "updates", ""))
    if math.isfinite(stage.wall_seconds):
        cards.append((duration(stage.wall_seconds), "wall time", ""))
    if seed_of(stage):
        cards.append((escape(seed_of(stage)), "seed", ""))
    return f'<div class="cards">{"".join(f"<div><b>{b}</b><span>{t}</span><span>{s}</span></div>" for b, t, s in cards)}</div>'


def _intervals(first: list[float], last: list[float]) -> str:
    if not np.isfinite([*first, *last]).all():
        return ""
    return f"95 %: {first[0]:.3f}–{first[1]:.3f} → {last[0]:.3f}–{last[1]:.3f}"
