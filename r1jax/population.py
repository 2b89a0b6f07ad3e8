"""Runs of one config that differ in values, as a population (`r1jax.members`); `r1jax sweep --launch=population` starts it.

    python -m r1jax.population LIST.json [--devices=N]       # [{"flags": [...], "workdir": DIR}, ...]

The stages before the last come first, one run after the other; then the last stages of all runs, which are RL, are
trained together. Each run has the work directory that `r1jax run` with its flags makes. Exit codes are those of `r1jax
run`, and 1 where some runs failed: what happened is in log.txt of each.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import logging

from r1jax.launch.compilation_cache import use_compilation_cache
from r1jax.launch.host_memory import keep_freed_memory
from r1jax.members import Population
from r1jax.pipeline import make_stages, plan_stages
from r1jax.run import BAD_INPUT, STOPPED, check_backend, run_and_report, run_stages
from r1jax.specs.config_file import ConfigError, Experiment, import_from, load_experiment
from r1jax.sweep.population import LOG, settings_of
from r1jax.workdir.directory import WorkdirError, read_summary
from r1jax.workdir.stop import graceful_stop

FAILED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="r1jax.population", description=__doc__)
    parser.add_argument("list", type=Path, help="a JSON file of the runs")
    parser.add_argument("--devices", type=int, default=1, help="how many devices the members are split over")
    options = parser.parse_args(arguments)
    runs = []
    try:
        for entry in json.loads(options.list.read_text()):
            config, *flags = entry["flags"]
            experiment = load_experiment(config.removeprefix("--config="), flags)
            for folder in (Path.cwd(), Path(experiment.file).resolve().parent):
                import_from(folder)
            runs.append((experiment, Path(entry["workdir"])))
        logging.set_verbosity(logging.WARNING)
        keep_freed_memory()
        check_backend()
        use_compilation_cache()
        return run_together(runs, num_devices=options.devices)
    except (ConfigError, WorkdirError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return STOPPED


def run_together(runs: Sequence[tuple[Experiment, Path]], *, num_devices: int = 1) -> int:
    """Trains (experiment, work directory) pairs as one population; the exit code.

    num_devices: the members are split over as many devices, at most, as divide their number.
    """
    with graceful_stop():
        todo = []
        for experiment, workdir in runs:
            *before, last = plan_stages(experiment, workdir)
            if before and run_stages(make_stages(experiment, workdir, skip=[last.name])) is None:
                return STOPPED
            if read_summary(last.workdir, last.spec) is None:
                todo.append((experiment, workdir, last.spec))
            elif not (workdir / "summary.json").exists():
                run_and_report(experiment, workdir)
        if not todo:
            return 0
        num_devices = max(n for n in range(1, min(num_devices, len(jax.devices())) + 1) if len(todo) % n == 0)
        print(f"{len(todo)} members of a population on {num_devices} devices; shown is the first", flush=True)
        population = Population(settings_of([spec for *_, spec in todo]), devices=jax.devices()[:num_devices])
        outcomes = population.run([functools.partial(run_and_report, *run) for *run, _ in todo])
    failed = [(run, error) for run, error in zip(todo, outcomes, strict=True) if isinstance(error, BaseException)]
    for (_, workdir, _), error in failed:
        text = "".join(traceback.format_exception(error))
        (workdir / LOG).write_text(f"{text}error: {error or type(error).__name__}\n")
        print(f"{workdir.name}: error: {error or type(error).__name__}", file=sys.stderr, flush=True)
    if failed:
        return FAILED
    return STOPPED if any(outcome is None for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
