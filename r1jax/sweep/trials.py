"""The trials of a sweep in optuna's storage, and what their work directories say of them.

A trial is WAITING until it is started, then RUNNING, also while its sweep is not: a sweep that was killed takes those up
again. COMPLETE, PRUNED and FAIL are final. Of each the user attributes hold the settings (key -> text of the flag) and
the work directory, and of one that failed the error.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from r1jax.specs.config_file import ConfigError
from r1jax.sweep.space import Candidate, Settings, folder_name
from r1jax.workdir.read import dig, read_json, read_rows, to_float

STORAGE = "optuna.db"
PRUNERS = {"median": optuna.pruners.MedianPruner, "none": optuna.pruners.NopPruner}


class SweepError(RuntimeError):
    """A sweep cannot go on; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    number: int
    settings: Settings
    folder: Path
    flags: tuple[str, ...]  # of `r1jax run`, without --workdir
    stages: tuple[tuple[str, Path], ...]  # (name, work directory) of all, in order

    @property
    def shared(self) -> dict[str, Path]:
        """Name -> directory of the stages that other trials may have too."""
        return {name: path for name, path in self.stages if not path.is_relative_to(self.folder)}

    @property
    def is_done(self) -> bool:
        """Whether its run has ended, with all stages done."""
        done = read_json(self.folder / "summary.json", []).get("stages", {})
        return all(name in done for name, _ in self.stages)


def open_study(folder: Path, *, storage: str, metric: str, direction: str, sampler: str, pruner: str) -> optuna.Study:
    """The study of a sweep, made where there is none.

    Raises ConfigError where trials are complete that another metric or direction has scored.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=folder.name,
        storage=optuna.storages.RDBStorage(storage, engine_kwargs={"connect_args": {"timeout": 60}}),
        direction=StudyDirection[direction.upper()],
        load_if_exists=True,
        pruner=PRUNERS[pruner](),
    )
    count = len(study.get_trials(deepcopy=False))  # so that a sweep that goes on does not draw the same again
    if sampler == "random":
        study.sampler = optuna.samplers.RandomSampler(seed=count)
    else:
        study.sampler = optuna.samplers.TPESampler(seed=count, constant_liar=True)
    now = {"metric": metric, "direction": direction}
    there = {"metric": study.user_attrs.get("metric", metric), "direction": study.direction.name.lower()}
    is_scored = any(
        trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in study.get_trials(deepcopy=False)
    )
    if there["direction"] != direction or (there != now and is_scored):
        raise ConfigError(f"{folder} holds a sweep with {_flags(there)}, not {_flags(now)}; choose another --workdir")
    study.set_user_attr("metric", metric)
    return study


def missing(study: optuna.Study, grid: Sequence[Candidate]) -> list[tuple[int, Candidate]]:
    """(the number that it would get, candidate) of those that are not in the study."""
    trials = study.get_trials(deepcopy=False)
    known = {_identity(trial.params) for trial in trials}
    return list(enumerate((c for c in grid if _identity(c.params) not in known), start=len(trials)))


def add(study: optuna.Study, candidates: Sequence[Candidate]) -> None:
    """Adds the trials of a grid. Raises ConfigError where optuna cannot take a key's values beside those that are there."""
    for candidate in candidates:
        try:
            _add(study, candidate.params, candidate.distributions, {"settings": candidate.settings})
        except ValueError as error:
            raise ConfigError(
                f"{study.study_name} has other values of these keys, and optuna says: {error} Choose another --workdir"
            ) from error


def add_failed_again(study: optuna.Study) -> None:
    """Adds each trial that failed once more, in its own work directory, unless it was before."""
    for trial in latest(study):
        if trial.state == TrialState.FAIL and "folder" in trial.user_attrs:
            attributes = {key: trial.user_attrs[key] for key in ("settings", "folder")} | {"again": trial.number}
            _add(study, trial.params, trial.distributions, attributes)


def _add(study: optuna.Study, params: dict, distributions: dict, attributes: dict[str, Any]) -> None:
    study.add_trial(
        optuna.create_trial(state=TrialState.WAITING, params=params, distributions=distributions, user_attrs=attributes)
    )


class Trials:
    """Gives the trials of a study one after the other, those first that are under way, and takes their ends.

    Args:
      folder: of the sweep.
      suggest: settings of an optuna trial; None for a grid, whose trials are all in the study.
      prepare: (number, settings, work directory) -> Trial; raises ValueError for settings that the config cannot take.
      limit: of trials, in all starts of the sweep.
    """

    def __init__(
        self,
        study: optuna.Study,
        folder: Path,
        *,
        suggest: Callable[[Any], Settings] | None,
        prepare: Callable[[int, Settings, Path], Trial],
        metric: str,
        limit: int | None = None,
    ):
        self.study, self.folder, self.metric = study, folder, metric
        self._suggest, self._prepare, self._limit = suggest, prepare, limit
        self._under_way = [trial._trial_id for trial in study.get_trials(states=[TrialState.RUNNING])]

    def next(self) -> Trial | None:
        """The next one, RUNNING from now on; None where no more are to be started. Raises ConfigError, see `_take`."""
        while True:
            if self._under_way:
                asked = optuna.Trial(self.study, self._under_way.pop(0))
            else:
                states = [trial.state for trial in self.study.get_trials(deepcopy=False)]
                started = len(states) - states.count(TrialState.WAITING)
                is_over = self._limit is not None and started >= self._limit
                if is_over or (self._suggest is None and TrialState.WAITING not in states):
                    return None
                asked = self.study.ask()
            if (trial := self._take(asked)) is not None:
                return trial

    def _take(self, asked: optuna.Trial) -> Trial | None:
        """The trial with its settings; None, and it has failed, where the config cannot take them.

        Raises the ConfigError instead where no trial has been taken before, or the latest ten were all refused.
        """
        settings = asked.user_attrs.get("settings")
        if settings is None:
            assert self._suggest is not None
            try:
                settings = self._suggest(asked)
            except ConfigError as error:
                self.fail_number(asked.number, str(error))
                raise
            asked.set_user_attr("settings", settings)
        name = asked.user_attrs.get("folder") or folder_name(asked.number, settings)
        try:
            trial = self._prepare(asked.number, settings, self.folder / name)
        except ConfigError as error:
            self.fail_number(asked.number, str(error))
            latest = self.study.get_trials(deepcopy=False)[-10:]
            if len(latest) in (1, 10) and all(trial.state == TrialState.FAIL for trial in latest):
                raise
            print(f"{name}: {error}", flush=True)
            return None
        asked.set_user_attr("folder", name)
        return trial

    def should_prune(self, trial: Trial) -> bool:
        """Records what the trial has logged of the metric; whether it is to be stopped."""
        asked = optuna.Trial(self.study, self.study.get_trials(deepcopy=False)[trial.number]._trial_id)
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        new = {step: value for step, value in values_along_the_way(trial, self.metric).items() if step not in known}
        for step, value in new.items():
            asked.report(value, step)
        return bool(new) and asked.should_prune()

    def complete(self, trial: Trial) -> float:
        """Records the score of a trial whose run is done, and returns it. Raises SweepError where it has none."""
        value = score_of(trial, self.metric)
        self.study.tell(trial.number, value)
        return value

    def prune(self, trial: Trial) -> None:
        """Records that it was stopped because others were better."""
        self.study.tell(trial.number, state=TrialState.PRUNED)

    def fail_number(self, number: int, error: str) -> None:
        """Records that a trial has failed."""
        asked = optuna.Trial(self.study, self.study.get_trials(deepcopy=False)[number]._trial_id)
        asked.set_user_attr("error", error)
        self.study.tell(number, state=TrialState.FAIL)


def values_along_the_way(trial: Trial, metric: str) -> dict[int, float]:
    """Update -> value, of the last stage that logs the metric; without the full evaluations at a stage's ends, which are
    of other problems."""
    rows = _rows_with(trial, metric)
    is_held_out = metric.startswith("eval/")
    return {int(row["step"]): row[metric] for row in rows if row["step"] and ("time/eval" in row or not is_held_out)}


def score_of(trial: Trial, metric: str) -> float:
    """A number of summary.json by its dotted key, or the last value of a metric of metrics.jsonl.

    Raises SweepError, with the names of those that there are, where the run has none.
    """
    summary = read_json(trial.folder / "summary.json", [])
    value = to_float(dig(summary, *metric.split(".")))
    if value == value:
        return value
    if rows := _rows_with(trial, metric):
        return rows[-1][metric]
    logged = {key for _, path in trial.stages for row in read_rows(path / "metrics.jsonl", []) for key in row}
    names = ", ".join(sorted(logged - {"step", "time"})) or "none"
    raise SweepError(f"--metric={metric}: {trial.folder} has none; there are {names}")


def _rows_with(trial: Trial, metric: str) -> list[dict[str, Any]]:
    """The rows that hold a finite value of the metric, of the last stage that has any."""
    for _, path in reversed(trial.stages):
        rows = [row for row in read_rows(path / "metrics.jsonl", []) if abs(to_float(row.get(metric))) < float("inf")]
        if rows:
            return rows
    return []


def _identity(params: dict[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)


def _flags(values: dict[str, str]) -> str:
    return " ".join(f"--{key}={value}" for key, value in values.items())


def latest(study: optuna.Study) -> list[FrozenTrial]:
    """The trials, without those that failed and were added again; finished ones first, the best first of all."""
    trials = study.get_trials(deepcopy=False)
    again = {trial.user_attrs.get("again") for trial in trials}
    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1

    def rank(trial: FrozenTrial):
        score = float("inf") if trial.value is None else sign * trial.value
        return (trial.state != TrialState.COMPLETE, score, trial.number)

    return sorted((trial for trial in trials if trial.number not in again), key=rank)


def folder_of(trial: FrozenTrial | optuna.Trial) -> str | None:
    """The name of its work directory; None where it has no settings yet."""
    settings = trial.user_attrs.get("settings")
    return settings and (trial.user_attrs.get("folder") or folder_name(trial.number, settings))
