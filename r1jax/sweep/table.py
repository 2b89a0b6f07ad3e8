"""The trials of a sweep as a person reads them."""

from __future__ import annotations

import shlex
from pathlib import Path

import optuna
from optuna.trial import TrialState

from r1jax.sweep.space import short_names, shown
from r1jax.sweep.trials import STORAGE, STUDY, latest

STATES = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "under way",
    TrialState.WAITING: "waiting",
}


def table(study: optuna.Study, metric: str) -> str:
    """A line a trial, the best first: its number, the settings that differ, score, state, minutes."""
    trials = latest(study)
    settings = {trial.number: trial.user_attrs.get("settings", {}) for trial in trials}
    keys = list(dict.fromkeys(key for values in settings.values() for key in values))
    differing = [key for key in keys if len({values.get(key) for values in settings.values()}) > 1] or keys
    names = short_names(differing)
    rows = [["trial", *(names[key] for key in differing), metric, "state", "min"]]
    for trial in trials:
        score = "" if trial.value is None else f"{trial.value:.4g}"
        took = "" if trial.duration is None else f"{trial.duration.total_seconds() / 60:.1f}"
        values = [shown(settings[trial.number].get(key, "-")) for key in differing]
        rows.append([f"{trial.number:03d}", *(value[:40] for value in values), score, STATES[trial.state], took])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def how_to_open(folder: Path) -> str:
    """How optuna opens the storage."""
    address = f"sqlite:///{folder / STORAGE}"
    return (
        f"pip install optuna-dashboard && optuna-dashboard {shlex.quote(address)}\n"
        f"in Python: optuna.load_study(study_name={STUDY!r}, storage={address!r})"
    )
