"""Tables of a stage: an evaluation by task, or first and last; a data set; a reward model's figures."""

import math
import re
from collections.abc import Mapping
from typing import Any

from r1jax.report.headline import evaluation_size, evaluations
from r1jax.report.markup import escape, show, show_interval, table
from r1jax.workdir.read import Stage, dig, number, read_json, with_limits

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


def tables(stage: Stage, notes: list[str]) -> str:
    """HTML: what there is of an evaluation's tasks, a set's domains and dropped samples, pairs, a reward model's figures."""
    return (
        _evaluation(stage.summary.get("tasks"))
        + _first_and_last(stage)
        + _data_set(read_json(stage.path / "table.json", notes))
        + _counts("Pairs", stage.summary.get("counts"))
        + _counts("On held-out examples", stage.summary.get("heldout"), _MEANINGS)
        + _counts("Examples", stage.summary.get("examples"))
    )


def scores(stage: Stage) -> str:
    """One line of a stage's main figures, for the overview; "" if there are none of its kind."""
    summary, facts = stage.summary, []
    for task, metrics in _mappings(summary.get("tasks")):
        facts += [f"{escape(task)} {show_interval(*with_limits(metrics, 'pass@1'))}"] if "pass@1" in metrics else []
    shown = {"held-out accuracy {}": ("heldout", "accuracy"), "{} samples kept": ("kept",), "{} pairs": ("pairs",)}
    for words, keys in shown.items():
        figure = number(dig(summary, *keys))
        facts += [words.format(show(figure))] if math.isfinite(figure) else []
    if isinstance(summary.get("claims"), int):
        facts.append(f"{show(number(summary.get('held')))} of {summary['claims']} claims held")
    return ", ".join(facts)


def _evaluation(tasks: Any) -> str:
    """Metrics down, tasks across."""
    by_task = dict(_mappings(tasks))
    names = dict.fromkeys(name for metrics in by_task.values() for name in metrics)
    shown = sorted((name for name in names if _is_shown(name, by_task)), key=_order)
    rows = [
        [escape(name), *(show_interval(*with_limits(metrics, name)) for metrics in by_task.values())] for name in shown
    ]
    return table(rows, head=["", *map(escape, by_task)]) if rows else ""


def _first_and_last(stage: Stage) -> str:
    """What RL changed: both evaluations are of the same problems, with as many samples."""
    ends = {when: figures for when, figures in evaluations(stage).items() if figures}
    figures = _evaluation(ends)
    size = evaluation_size(stage, "final_")
    note = f'<p class="quiet">Held out: {size}.</p>' if size else ""
    return f"<h3>First {'and last ' if len(ends) > 1 else ''}evaluation</h3>{note}{figures}" if figures else ""


def _is_shown(name: str, by_task: Mapping[str, Mapping[str, Any]]) -> bool:
    if name.endswith(("_low", "_high", "/seconds")):
        return False
    return not _FAILURES.fullmatch(name) or any(number(metrics.get(name)) > 0 for metrics in by_task.values())


def _order(name: str) -> tuple[int, str, float]:
    """pass@1 first, cons@2 before cons@16, and so on."""
    rank = next((rank for rank, start in enumerate(_LEADING) if name.startswith(start)), len(_LEADING))
    stem, _, size = name.partition("@")
    size = size.removesuffix("_gain")
    return rank, f"{stem}{'_gain' if name.endswith('_gain') else ''}", number(int(size)) if size.isdecimal() else 0.0


def _data_set(data: Mapping[str, Any]) -> str:
    """Samples by domain (R1 v2 Table 5), and the reasons for which others were dropped."""
    columns, domains = ("samples", "rounds", "tokens"), data.get("domains")
    rows = [
        [escape(row.get("domain", "")), *(show(number(row.get(key))) for key in columns)]
        for row in (domains if isinstance(domains, list) else [])
        if isinstance(row, Mapping)
    ]
    asked = f"{show(number(data.get('samples')))} samples of {show(number(data.get('prompts')))} prompts"
    kept = f"<h3>The set</h3>{table(rows, head=['domain', *columns])}" if rows else ""
    return kept + _counts(f"Dropped, of {asked}", data.get("rejected"))


def _counts(title: str, counts: Any, meanings: Mapping[str, str] | None = None) -> str:
    """A line for each number, with what it means where that is known."""
    rows = [
        [escape(name), show(number(value)), *([] if meanings is None else [escape(meanings.get(name, ""))])]
        for name, value in (counts.items() if isinstance(counts, Mapping) else ())
        if math.isfinite(number(value))
    ]
    return f"<h3>{title}</h3>{table(rows)}" if rows else ""


def _mappings(values: Any) -> list[tuple[str, Mapping[str, Any]]]:
    if not isinstance(values, Mapping):
        return []
    return [(str(name), value) for name, value in values.items() if isinstance(value, Mapping)]
