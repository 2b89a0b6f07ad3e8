"""The trials of a sweep in optuna's storage, and what their work directories say of them.

A trial is WAITING until it is started, then RUNNING, also while its sweep is not: a sweep that was killed takes those up
again. COMPLETE, PRUNED and FAIL are final. The user attribute "settings" of a trial holds the texts of its flags,
"folder" the name of its work directory, "error" why it failed, "again" the number of the failed one that it repeats.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.pool import NullPool

from r1jax.specs.config_file import ConfigError
from r1jax.sweep.space import Candidate, Settings, folder_name
from r1jax.workdir.read import dig, read_json, read_rows, to_float

STORAGE, STUDY = "optuna.db", "sweep"
PRUNERS = {"median": optuna.pruners.MedianPruner, "none": optuna.pruners.NopPruner}


class SweepError(RuntimeError):
    """A sweep cannot go on; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    number: int
    folder: Path  # its work directory
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


def open_storage(address: str) -> optuna.storages.RDBStorage:
    """optuna's storage of a sweep, whose connections are closed after each use: SQLAlchemy would keep some open."""
    return optuna.storages.RDBStorage(address, engine_kwargs={"poolclass": NullPool, "connect_args": {"timeout": 60}})


def open_study(folder: Path, *, storage: str, metric: str, direction: str, sampler: str, pruner: str) -> optuna.Study:
    """The study of a sweep, made where there is none.

    Raises ConfigError for another direction than it has, and for another metric where trials are scored.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=STUDY,
        storage=open_storage(storage),
        direction=StudyDirection[direction.upper()],
        load_if_exists=True,
        pruner=PRUNERS[pruner](),
    )
    trials = study.get_trials(deepcopy=False)
    seed = len(trials)  # so that a sweep that goes on does not draw the same again
    is_random = sampler == "random"
    study.sampler = (
        optuna.samplers.RandomSampler(seed) if is_random else optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    )
    before = study.user_attrs.get("metric", metric), study.direction.name.lower()
    if before[1] != direction or (before[0] != metric and any(trial.value is not None for trial in trials)):
        raise ConfigError(
            f"{folder} holds a sweep with --metric={before[0]} --direction={before[1]}; choose another --workdir"
        )
    study.set_user_attr("metric", metric)
    return study


def has_trials(address: str) -> bool:
    """Whether a storage, which is made where there is none, holds a trial."""
    storage = open_storage(address)
    names = optuna.get_all_study_names(storage)
    return STUDY in names and bool(optuna.load_study(study_name=STUDY, storage=storage).get_trials(deepcopy=False))


def missing(study: optuna.Study, grid: Sequence[Candidate]) -> list[tuple[int, Candidate]]:
    """(the number that it would get, candidate) of those that are not in the study."""
    trials = study.get_trials(deepcopy=False)
    known = [trial.params for trial in trials]
    return list(enumerate((candidate for candidate in grid if candidate.params not in known), start=len(trials)))


def add(study: optuna.Study, params: dict[str, Any], distributions: dict[str, Any], **attributes: Any) -> None:
    """Adds a trial that is WAITING. Raises ConfigError where optuna cannot take a value beside those that are there."""
    waiting = optuna.create_trial(
        state=TrialState.WAITING, params=params, distributions=distributions, user_attrs=attributes
    )
    try:
        study.add_trial(waiting)
    except ValueError as error:
        raise ConfigError(f"the sweep has other values of these keys ({error}) Choose another --workdir") from error


def add_failed_again(study: optuna.Study) -> None:
    """Adds each trial that failed once more, in the same work directory, unless it was before."""
    for trial in latest(study):
        if trial.state == TrialState.FAIL and not is_refused(trial):
            same = {key: trial.user_attrs[key] for key in ("settings", "folder")}
            add(study, trial.params, trial.distributions, **same, again=trial.number)


def latest(study: optuna.Study) -> list[FrozenTrial]:
    """The trials, without those that failed and were added again; those that are done first, the best first of all."""
    trials = study.get_trials(deepcopy=False)
    again = {trial.user_attrs.get("again") for trial in trials}
    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1

    def rank(trial: FrozenTrial) -> tuple[bool, float, int]:
        score = math.inf if trial.value is None else sign * trial.value
        return (trial.state != TrialState.COMPLETE, score, trial.number)

    return sorted((trial for trial in trials if trial.number not in again), key=rank)


def is_refused(trial: FrozenTrial) -> bool:
    """Whether it was never started, since the config cannot take its settings."""
    return trial.state == TrialState.FAIL and "folder" not in trial.user_attrs


class Trials:
    """Gives the trials of a study one after the other, those first that are under way, and takes their ends.

    Args:
      folder: of the sweep.
      suggest: settings of an optuna trial; None for a grid, whose trials are all in the study.
      prepare: (number, settings, work directory) -> Trial; raises ConfigError for settings that the config cannot take.
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
        self._suggest, self._prepare, self._limit = suggest, prepare, math.inf if limit is None else limit
        self._under_way = [trial.number for trial in study.get_trials(states=[TrialState.RUNNING])]

    def next(self) -> Trial | None:
        """The next one, RUNNING from now on; None where no more are to be started.

        A trial whose settings the config cannot take has failed. Raises ConfigError where the latest ten, or all, were
        refused so, and where the function of the sweep's file raises.
        """
        while True:
            if self._under_way:
                asked = self._open(self._under_way.pop(0))
            else:
                trials = self.study.get_trials(deepcopy=False)
                num_waiting = sum(trial.state == TrialState.WAITING for trial in trials)
                num_started = len(trials) - num_waiting - sum(map(is_refused, trials))
                if num_started >= self._limit or not (self._suggest or num_waiting):
                    return None
                asked = self.study.ask()
            settings = asked.user_attrs.get("settings")
            try:
                if settings is None:
                    assert self._suggest is not None
                    settings = self._suggest(asked)
                    asked.set_user_attr("settings", settings)
                name = asked.user_attrs.get("folder") or folder_name(asked.number, settings)
                trial = self._prepare(asked.number, settings, self.folder / name)
            except ConfigError as error:
                self.fail(asked.number, str(error))
                if settings is None or all(map(is_refused, self.study.get_trials(deepcopy=False)[-10:])):
                    raise
                print(f"trial {asked.number}: {error}", flush=True)
                continue
            asked.set_user_attr("folder", name)
            return trial

    def should_prune(self, trial: Trial) -> bool:
        """Records what the trial has logged of the metric since; whether it is to be stopped."""
        asked = self._open(trial.number)
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        values = values_along_the_way(trial, self.metric)
        new = [step for step in values if step not in known]
        for step in new:
            asked.report(values[step], step)
        return bool(new) and asked.should_prune()

    def complete(self, trial: Trial) -> float:
        """Records the score of a trial whose run is done, and returns it. Raises SweepError where it has none."""
        value = score_of(trial, self.metric)
        self.study.tell(trial.number, value)
        return value

    def prune(self, trial: Trial) -> None:
        """Records that it was stopped because others were better."""
        self.study.tell(trial.number, state=TrialState.PRUNED)

    def fail(self, number: int, error: str) -> None:
        """Records that a trial has failed."""
        self._open(number).set_user_attr("error", error)
        self.study.tell(number, state=TrialState.FAIL)

    def _open(self, number: int) -> optuna.Trial:
        return optuna.Trial(self.study, self.study.get_trials(deepcopy=False)[number]._trial_id)


def values_along_the_way(trial: Trial, metric: str) -> dict[int, float]:
    """Update -> value. Full evaluations, at the ends of a stage, are left out: they are of other problems."""
    is_held_out = metric.startswith("eval/")
    rows = _rows_with(trial, metric)
    return {int(row["step"]): row[metric] for row in rows if row["step"] and ("time/eval" in row or not is_held_out)}


def score_of(trial: Trial, metric: str) -> float:
    """The number of summary.json at a dotted key, else the last value of a metric.

    Raises SweepError, with the names of the metrics that there are, where the run has none.
    """
    value = to_float(dig(read_json(trial.folder / "summary.json", []), *metric.split(".")))
    if math.isfinite(value):
        return value
    if rows := _rows_with(trial, metric):
        return rows[-1][metric]
    logged = {key for _, path in trial.stages for row in read_rows(path / "metrics.jsonl", []) for key in row}
    names = ", ".join(sorted(logged - {"step", "time"})) or "none"
    raise SweepError(f"--metric={metric}: {trial.folder} has none; there are {names}")


def _rows_with(trial: Trial, metric: str) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl with a finite value of the metric, of the last stage that has any."""
    for _, path in reversed(trial.stages):
        rows = [row for row in read_rows(path / "metrics.jsonl", []) if math.isfinite(to_float(row.get(metric)))]
        if rows:
            return rows
    return []
