"""Sweeps from Python: a grid of runs in this process, as a notebook ablates; and what any sweep has left."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from r1jax.pipeline import check_stages
from r1jax.run import run_experiment
from r1jax.specs.config_file import ConfigError, Experiment, with_flags
from r1jax.sweep.check import prepare, refuse_equal
from r1jax.sweep.local import LOG
from r1jax.sweep.space import combinations_of, short_names, text_of, value_of
from r1jax.sweep.table import STATES, table
from r1jax.sweep.trials import STORAGE, STUDY, Trials, add, latest, missing, open_storage, open_study
from r1jax.workdir.directory import locked
from r1jax.workdir.read import NotAWorkdirError, Run, Stage, read_run


@dataclasses.dataclass(frozen=True)
class SweptRun:
    """One run of a sweep."""

    number: int
    settings: dict[str, Any]  # last parts of a key, as many as tell it from the others -> value: {"weight": 0.5}
    state: str  # "done", "failed", "pruned", "under way" or "waiting"
    score: float | None  # of the sweep's metric
    path: Path | None  # its work directory; None where it was not started

    def read(self) -> Run:
        """Its stages, and those before them that it shares with other runs. Raises NotAWorkdirError without any."""
        if self.path is None:
            raise NotAWorkdirError(f"run {self.number} is {self.state} and has no work directory")
        return read_run(self.path)

    @property
    def stage(self) -> Stage:
        """Its last stage."""
        return self.read().stages[-1]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a sweep has left."""

    path: Path
    metric: str  # the score
    runs: tuple[SweptRun, ...]  # in order of their numbers
    table: str  # a line a run, the best first


def run_grid(
    experiment: Experiment,
    *,
    workdir: str | Path,
    settings: Mapping[str, Sequence[Any] | np.ndarray],
    seeds: Sequence[int] | None = None,
    metric: str = "eval/pass@1",
) -> Sweep:
    """Runs an experiment with every combination of values and seeds, one run after the other, in this process.

    A reward that a cell of a notebook defines is "__main__:name". The folder is that of `r1jax sweep`: what is done is
    kept, the same call goes on, and the stages before the last that the settings change are made once for all runs.
    What a run prints is in its log.txt.

    settings: dotted key of the config -> its values, {"stages.zero.rewards[2].weight": [0.0, 1.0]}.
    metric: the score of a run, as for `r1jax sweep`.

    Raises ConfigError before anything runs for values that the config cannot take; what `run_experiment` raises.
    """
    folder = Path(workdir).absolute()
    lists = {}
    for key, values in {**settings, **({} if seeds is None else {"seed": seeds})}.items():
        values = values.tolist() if isinstance(values, np.ndarray) else values
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise ConfigError(f"settings: {key!r} needs a list of values, not {values!r}")
        lists[key] = [text_of(value) for value in values]
    grid = combinations_of(lists)
    refuse_equal(experiment, (), [candidate.settings for candidate in grid])
    prepared = functools.partial(prepare, experiment, ())
    for candidate in grid:
        trial = prepared(0, candidate.settings, folder / "trial")
        check_stages(with_flags(experiment, trial.flags[1:]), trial.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        study = open_study(
            folder, storage=_address(folder), metric=metric, direction="maximize", sampler="grid", pruner="none"
        )
        for _, candidate in missing(study, grid):
            add(study, candidate.params, candidate.distributions, settings=candidate.settings)
        trials = Trials(study, folder, suggest=None, prepare=prepared, metric=metric)
        while (trial := trials.next()) is not None:
            began = time.monotonic()
            if not trial.is_done:
                trial.folder.mkdir(exist_ok=True)
                with (trial.folder / LOG).open("a") as log, contextlib.redirect_stdout(log):
                    run_experiment(with_flags(experiment, trial.flags[1:]), trial.folder)
            score = trials.complete(trial)
            print(f"{trial.folder.name}: {metric} {score:.4g} ({time.monotonic() - began:.0f} s)", flush=True)
    return read_sweep(folder)


def read_sweep(workdir: str | Path) -> Sweep:
    """Reads the folder of a sweep, of `run_grid` or of `r1jax sweep`, while it runs too.

    Raises NotAWorkdirError where there is none.
    """
    folder = Path(workdir).absolute()
    if not (folder / STORAGE).is_file():
        raise NotAWorkdirError(f"{workdir} holds no sweep: it has no {STORAGE}")
    study = optuna.load_study(study_name=STUDY, storage=open_storage(_address(folder)))
    metric = study.user_attrs["metric"]
    names = short_names(list(dict.fromkeys(key for trial in study.trials for key in trial.user_attrs["settings"])))
    runs = [
        SweptRun(
            number=trial.number,
            settings={names[key]: value_of(text) for key, text in trial.user_attrs["settings"].items()},
            state=STATES[trial.state],
            score=trial.value if trial.state == TrialState.COMPLETE else None,
            path=folder / trial.user_attrs["folder"] if "folder" in trial.user_attrs else None,
        )
        for trial in latest(study)
    ]
    runs.sort(key=lambda run: run.number)
    return Sweep(folder, metric, tuple(runs), table(study, metric))


def _address(folder: Path) -> str:
    return f"sqlite:///{folder / STORAGE}"
