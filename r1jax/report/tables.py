"""Tables of a stage: an evaluation by task, or first and last; a data set; a reward model's figures."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import escape

from r1jax.report.headline import evaluation_size, evaluations
from r1jax.report.markup import show, show_interval
from r1jax.workdir.read import Stage, dig, to_float, with_limits


class Table(NamedTuple):
    """Rows of cells under a title."""

    title: str
    rows: list[list[str]]
    head: Sequence[str] = ()
    note: str = ""


_LEADING = ("pass@", "cons@", "rewards/", "format", "mean_length", "clipped_ratio", "reflection/", "language/")
_FAILURES = re.compile(r"rewards/[^/]+/(errors|timeouts)")
_MEANINGS = {
    "accuracy": "right order, or right class",
    "accuracy_safe": "right among the safe",
    "accuracy_unsafe": "right among the unsafe",
    "margin": "mean reward of the better less that of the worse",
    "ece": "expected calibration error",
    "mean_reward": "mean reward",
    "min_reward": "lowest reward",
    "max_reward": "highest reward",
    "length/correlation": "correlation of reward and length",
    "length/prefers_longer": "how often the longer one is preferred",
    "length/longer_is_chosen": "how often it should be",
    "length/bias": "the former less the latter",
}
"""Of a reward model's held-out figures (r1jax.evals.reward_model)."""


def tables(stage: Stage) -> list[Table]:
    """What there is of an evaluation's tasks, a set's domains and dropped samples, pairs, a reward model's figures."""
    summary, data = stage.summary, stage.table
    ends = {when: figures for when, figures in evaluations(stage).items() if figures}
    size = evaluation_size(stage, "final_")
    asked = f"{show(to_float(data.get('samples')))} samples of {show(to_float(data.get('prompts')))} prompts"
    every = [
        _evaluation("", dict(_mappings(summary.get("tasks")))),
        # What RL changed: both evaluations are of the same problems, with as many samples.
        _evaluation(f"First {'and last ' if len(ends) > 1 else ''}evaluation", ends, size and f"Held out: {size}."),
        _data_set(data.get("domains")),
        _counts(f"Dropped, of {asked}", data.get("rejected")),
        _counts("Pairs", summary.get("counts")),
        _counts("On held-out examples", summary.get("heldout"), _MEANINGS),
        _counts("Examples", summary.get("examples")),
    ]
    return [table for table in every if table.rows]


def scores(stage: Stage) -> list[str]:
    """A stage's main figures, for the overview."""
    summary, facts = stage.summary, []
    for task, metrics in _mappings(summary.get("tasks")):
        facts += [escape(task) + " " + show_interval(*with_limits(metrics, "pass@1"))] if "pass@1" in metrics else []
    shown = {"held-out accuracy {}": ("heldout", "accuracy"), "{} samples kept": ("kept",), "{} pairs": ("pairs",)}
    for words, keys in shown.items():
        figure = to_float(dig(summary, *keys))
        facts += [words.format(show(figure))] if math.isfinite(figure) else []
    if isinstance(summary.get("claims"), int):
        facts.append(f"{show(to_float(summary.get('held')))} of {summary['claims']} claims held")
    return facts


def _evaluation(title: str, by_task: Mapping[str, Mapping[str, Any]], note: str = "") -> Table:
    """Metrics down, tasks across."""
    names = dict.fromkeys(name for metrics in by_task.values() for name in metrics)
    shown = sorted((name for name in names if _is_shown(name, by_task)), key=_order)
    rows = [[name, *(show_interval(*with_limits(figures, name)) for figures in by_task.values())] for name in shown]
    return Table(title, rows, ["", *by_task], note)


def _is_shown(name: str, by_task: Mapping[str, Mapping[str, Any]]) -> bool:
    if name.endswith(("_low", "_high", "/seconds")):
        return False
    return not _FAILURES.fullmatch(name) or any(to_float(metrics.get(name)) > 0 for metrics in by_task.values())


def _order(name: str) -> tuple[int, str, float]:
    """pass@1 first, cons@2 before cons@16, and so on."""
    rank = next((rank for rank, start in enumerate(_LEADING) if name.startswith(start)), len(_LEADING))
    stem, _, size = name.partition("@")
    size = size.removesuffix("_gain")
    return rank, f"{stem}{'_gain' if name.endswith('_gain') else ''}", to_float(int(size)) if size.isdecimal() else 0.0


def _data_set(domains: Any) -> Table:
    """Samples by domain (R1 v2 Table 5)."""
    columns = ("samples", "rounds", "tokens")
    rows = [
        [str(row.get("domain", "")), *(show(to_float(row.get(key))) for key in columns)]
        for row in (domains if isinstance(domains, list) else [])
        if isinstance(row, Mapping)
    ]
    return Table("The set", rows, ["domain", *columns])


def _counts(title: str, counts: Any, meanings: Mapping[str, str] | None = None) -> Table:
    """A line for each number, with what it means where that is known."""
    rows = [
        [str(name), show(to_float(value)), *([] if meanings is None else [meanings.get(name, "")])]
        for name, value in (counts.items() if isinstance(counts, Mapping) else ())
        if math.isfinite(to_float(value))
    ]
    return Table(title, rows)


def _mappings(values: Any) -> list[tuple[str, Mapping[str, Any]]]:
    if not isinstance(values, Mapping):
        return []
    return [(str(name), value) for name, value in values.items() if isinstance(value, Mapping)]
