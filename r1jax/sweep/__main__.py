"""The command line of sweeps; README.md of this room says how they are written.

    r1jax sweep --config=F --workdir=DIR --set stages.rl.group_size=8,16 [--set ...] [--seeds=0,1,2] [--jobs=N]
    r1jax sweep ... --launch=population [--jobs=N]          all trials as one program, split over N devices
    r1jax sweep --config=F --workdir=DIR --space=FILE.py --trials=N [--sampler=tpe|random|grid] [--pruner=median]

Exit codes: 0 all trials have ended, 1 some of them failed, 2 bad input, 75 stopped: the same command goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from r1jax.specs.config_file import ConfigError, import_from, load_experiment
from r1jax.sweep.check import check_trials, prepare, refuse_equal
from r1jax.sweep.clusters import CLUSTERS, launch_script
from r1jax.sweep.local import LOG, LocalSweep, last_words, make_slots
from r1jax.sweep.population import check_population, run_population
from r1jax.sweep.space import every, folder_name, load_space, product
from r1jax.sweep.table import how_to_open, table
from r1jax.sweep.trials import (
    PRUNERS,
    STORAGE,
    SweepError,
    Trial,
    Trials,
    add,
    add_failed_again,
    has_trials,
    is_refused,
    latest,
    missing,
    open_study,
)
from r1jax.workdir.directory import WorkdirError, locked, write_text
from r1jax.workdir.stop import graceful_stop

DONE, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 75
RUN = (sys.executable, "-m", "r1jax", "run")
POPULATION = (sys.executable, "-m", "r1jax.population")


def main(arguments: Sequence[str] | None = None, *, run: Sequence[str] = RUN) -> int:
    """The command line; returns the exit code. run: the command that runs a trial."""
    try:
        options, constant = _parse(arguments)
        folder = Path(os.path.abspath(os.path.expanduser(options.workdir)))
        for path in (Path.cwd(), Path(options.config.partition(":")[0]).resolve().parent):
            import_from(path)
        with _storage(folder, is_dry=options.dry_run) as storage:
            return _sweep(options, constant, folder, storage=storage, run=run)
    except (ConfigError, WorkdirError, SweepError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("stopped at once; the same command goes on", flush=True)
        return STOPPED


def _sweep(
    options: argparse.Namespace, constant: Sequence[str], folder: Path, *, storage: str, run: Sequence[str]
) -> int:
    """Opens the study, tries its trials, then runs them here, writes the script of a cluster, or prints either."""
    load_experiment(options.config, constant)
    is_local = options.launch == "local"
    slots = make_slots(options.jobs or 1) if is_local else []
    suggest, grid = load_space(options.space) if options.space else None, []
    if options.sampler == "grid":
        grid = every(suggest) if suggest else product(options.set, options.seeds)
        refuse_equal(options.config, constant, [candidate.settings for candidate in grid])
    names = ("metric", "direction", "sampler", "pruner")
    study = open_study(folder, storage=storage, **{name: getattr(options, name) for name in names})
    prepared = functools.partial(prepare, options.config, constant)
    grid = missing(study, grid)
    to_check = [(prepared(number, c.settings, folder / folder_name(number, c.settings)), False) for number, c in grid]
    for trial in study.get_trials(deepcopy=False, states=[TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE]):
        if settings := trial.user_attrs.get("settings"):
            name = trial.user_attrs.get("folder") or folder_name(trial.number, settings)
            to_check.append((prepared(trial.number, settings, folder / name), trial.state == TrialState.COMPLETE))
    if options.launch == "population":
        check_population([trial for trial, is_finished in to_check if not is_finished])
    if to_check:
        check_trials(to_check)
    for _, candidate in grid:
        add(study, candidate.params, candidate.distributions, settings=candidate.settings)
    if options.retry:
        add_failed_again(study)
    trials = Trials(
        study,
        folder,
        suggest=None if options.sampler == "grid" else suggest,
        prepare=prepared if to_check else _checking_first(prepared),
        metric=options.metric,
        limit=options.trials,
    )
    if options.launch == "population" and not options.dry_run:
        return _train_together(trials, options, folder)
    if not is_local or options.dry_run:
        return _launch(trials, options, folder, run)
    seconds = None if options.hours is None else 3600 * options.hours
    sweep = LocalSweep(trials, slots, run=run, prunes=options.pruner != "none", seconds=seconds)
    with graceful_stop() as stop:
        is_over = sweep.go(stop)
    return _ended(study, options, folder, is_over=is_over)


def _ended(study: optuna.Study, options: argparse.Namespace, folder: Path, *, is_over: bool) -> int:
    """Says how the trials stand; the exit code."""
    print(f"\n{table(study, options.metric)}\n\n{how_to_open(folder)}", flush=True)
    if not is_over:
        print(f"stopped; the same command goes on in {folder}", flush=True)
        return STOPPED
    failed = sum(trial.state == TrialState.FAIL and not is_refused(trial) for trial in latest(study))
    if failed:
        print(f"{failed} failed: --retry runs them once more", file=sys.stderr, flush=True)
    return FAILED if failed else DONE


def _checking_first(prepare: Callable[..., Trial]) -> Callable[..., Trial]:
    """Tries the first trial before it runs, where none is known before."""
    first = []

    def checked(*arguments: Any) -> Trial:
        trial = prepare(*arguments)
        if not first:
            check_trials([(trial, False)])
            first.append(trial)
        return trial

    return checked


def _train_together(trials: Trials, options: argparse.Namespace, folder: Path) -> int:
    """Takes down what was done before, and runs the rest as a population."""
    rest, code = [], DONE
    while (trial := trials.next()) is not None:
        rest.append(trial)
    missing = [trial for trial in rest if not trial.is_done]
    with graceful_stop() as stop:
        if missing:
            code = run_population(missing, folder, stop, devices=options.jobs or 1, program=POPULATION)
    is_over = code in (DONE, FAILED)
    for trial in rest:
        if trial.is_done:
            trials.complete(trial)
        elif is_over:
            trials.fail(trial.number, last_words(trial.folder / LOG) or "it has not ended")
    if code == BAD_INPUT:
        return code
    return _ended(trials.study, options, folder, is_over=is_over)


def _launch(trials: Trials, options: argparse.Namespace, folder: Path, run: Sequence[str]) -> int:
    """Takes down what has ended since, and starts or shows the rest."""
    rest = []
    while (trial := trials.next()) is not None:
        if trial.is_done:
            trials.complete(trial)
        else:
            rest.append(trial)
    if options.launch in ("local", "population"):
        for trial in rest:
            print(shlex.join([*run, *trial.flags, f"--workdir={trial.folder}"]))
        return DONE
    if not rest:
        print(f"{table(trials.study, options.metric)}\n\n{how_to_open(folder)}", flush=True)
        return DONE
    title = f"{len(rest)} trials of {options.config} in {folder}"
    script = launch_script(options.launch, rest, title=title, jobs=options.jobs)
    if options.dry_run:
        print(script, end="")
        return DONE
    file = folder / "launch.sh"
    write_text(file, script)
    return subprocess.run(["bash", str(file)], check=False).returncode


@contextlib.contextmanager
def _storage(folder: Path, *, is_dry: bool) -> Iterator[str]:
    """The address of the sweep's storage, which no other start of the sweep uses meanwhile; of a copy for a dry run."""
    if not is_dry:
        is_new, storage = not folder.exists(), f"sqlite:///{folder / STORAGE}"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with locked(folder):
                yield storage
        except (ConfigError, WorkdirError):
            if is_new and not has_trials(storage):
                shutil.rmtree(folder)
            raise
        return
    with tempfile.TemporaryDirectory() as copy:
        if (folder / STORAGE).exists():
            shutil.copy(folder / STORAGE, copy)
        yield f"sqlite:///{Path(copy) / STORAGE}"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message):
        raise ConfigError(message)


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The sweep's own flags, and those of the config that hold for every trial."""
    parser = _Parser(
        prog="r1jax sweep",
        description="Runs one config with many settings; killed and started again it goes on.",
        epilog="--config.a.b=value sets a value of all trials. The trials are in DIR/optuna.db, each has a folder in DIR.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", required=True, metavar="FILE.py[:ARGUMENT]", help="the experiment")
    add("--workdir", required=True, metavar="DIR", help="where the trials are written")
    add("--set", action="append", default=[], metavar="KEY=A,B", help="values of a key; several make all combinations")
    add("--seeds", metavar="0,1,2", help="seeds, combined with all of them")
    add("--space", metavar="FILE.py", help="a file whose function trial(trial) gives the settings of an optuna trial")
    add("--sampler", choices=("tpe", "random", "grid"), help="of a file; default tpe")
    add("--pruner", choices=PRUNERS, default="none", help="stops a trial whose metric is worse than the median's")
    add("--metric", default="eval/pass@1", help="of metrics.jsonl, or a key of summary.json; default held-out pass@1")
    add("--direction", choices=("maximize", "minimize"), default="maximize", help="which scores are better")
    add("--trials", type=int, metavar="N", help="the most trials, in all starts")
    add("--hours", type=float, metavar="H", help="after so long the sweep stops, and can go on")
    add("--jobs", type=int, metavar="N", help="trials at a time; they share the cores (and GPUs) evenly; default 1")
    add("--retry", action="store_true", help="runs trials that failed once more")
    add(
        "--launch",
        choices=("local", "population", *CLUSTERS),
        default="local",
        help="where they run; default here, each by itself; population: here, as one program",
    )
    add("--dry-run", action="store_true", help="prints the commands, or the script of a cluster, and runs nothing")
    options, constant = parser.parse_known_args(arguments)
    if bool(options.space) == bool(options.set or options.seeds):
        parser.error("give --set and --seeds, or --space=FILE.py: what differs between the trials")
    options.sampler = options.sampler or ("tpe" if options.space else "grid")
    if options.launch == "population" and options.sampler != "grid":
        parser.error(f"--launch=population trains a grid, not what --sampler={options.sampler} draws")
    if not options.space and options.sampler != "grid":
        parser.error(f"--sampler={options.sampler} draws from a file: give --space=FILE.py")
    is_endless = options.sampler != "grid" and options.trials is None
    if is_endless and (options.hours is None or options.launch != "local" or options.dry_run):
        parser.error(f"--trials is missing: how many trials --sampler={options.sampler} may draw")
    if options.launch != "local" and (options.hours is not None or options.pruner != "none"):
        parser.error(f"--hours and --pruner are for trials that run here, not with --launch={options.launch}")
    for name in ("trials", "hours", "jobs"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            parser.error(f"--{name}={value} must be more than 0")
    return options, constant


if __name__ == "__main__":
    sys.exit(main())
