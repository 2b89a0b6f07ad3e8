"""The front door: one config file, one work directory, its stages in order. Of configs: r1jax/specs/README.md.

    r1jax run --config=configs/X.py[:argument] --workdir=DIR [--seed=N] [--stages=a,b] [--skip=c] [--config.a.b=value]

Directories may be moved as long as they lie as before to each other. What a stage chosen by --stages or --skip reads
must have been made before, by the same config. The first Ctrl-C or SIGTERM ends the run when the update or the
evaluation's batch under way is done, and all is saved; a second one quits at once. Exit codes: r1jax/launch/README.md.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging

from r1jax.launch.compilation_cache import use_compilation_cache
from r1jax.launch.distributed import add_arguments, initialise, leave_at_once, lost_a_peer
from r1jax.launch.host_memory import keep_freed_memory
from r1jax.pipeline import PlannedStage, chosen_stages, make_stages, plan_stages
from r1jax.processes import OtherProcessError, is_first, on_first
from r1jax.report import NotAWorkdirError, write_report
from r1jax.specs.config_file import ConfigError, Experiment, import_from, load_experiment
from r1jax.specs.reference import describe_stage
from r1jax.workdir.directory import read_summary, write_json
from r1jax.workdir.stop import Stopped, graceful_stop

BAD_INPUT = 2
STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again


def run_stages(stages: Sequence[PlannedStage]) -> dict[str, dict[str, Any]] | None:
    """Runs each stage that is not DONE; returns the summaries by name, or None if a signal stopped it."""
    summaries = {}
    with graceful_stop() as stop:
        for stage in stages:
            edited = "".join(f"; {code} was edited since" for code in stage.changed_code)
            summary = on_first(functools.partial(read_summary, stage.workdir, stage.spec))
            try:
                if summary is not None:
                    _print(f"{stage.name}: done before, kept as it is in {stage.workdir}{edited}")
                else:
                    stop.check()
                    _print(f"{stage.name}: {stage.spec.stage} in {stage.workdir}{edited}")
                    start = time.monotonic()
                    summary = stage.module.main(stage.spec, stage.workdir)
                    summary = {"wall_seconds": time.monotonic() - start, **summary}
            except Stopped:
                return None
            summaries[stage.name] = summary
    return summaries


def run_experiment(experiment: Experiment, workdir: str | Path) -> dict[str, Any]:
    """Runs an experiment in this process, as `r1jax run` does; returns its summary.

    The functions of a notebook's cells are "__main__:name". What is done is kept, and what was stopped goes on.
    Raises what `make_stages` and the stages raise, and KeyboardInterrupt where a signal stopped it and all is saved.
    """
    use_compilation_cache()
    done = run_and_report(experiment, Path(workdir))
    if done is None:
        raise KeyboardInterrupt(f"stopped; the same call goes on from the last checkpoint in {workdir}")
    return done[0]


def run_and_report(
    experiment: Experiment, workdir: Path, *, only: Sequence[str] | None = None, skip: Sequence[str] = ()
) -> tuple[dict[str, Any], Path] | None:
    """Runs the chosen stages that are not done, and has the first process write summary and report: (summary, the page).

    None if a signal stopped it. Raises what `make_stages` raises.
    """
    summaries = run_stages(make_stages(experiment, workdir, only=only, skip=skip))
    if summaries is None:
        return None
    planned = plan_stages(experiment, workdir)
    summary = {**_total(planned, summaries), "seed": experiment.seed}
    if not is_first():
        return summary, workdir
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "summary.json", summary)
    try:
        report = write_report(workdir)
    except NotAWorkdirError:  # all that has run yet lies elsewhere
        report = write_report(next(stage.workdir for stage in reversed(planned) if stage.name in summaries))
    return summary, report


def summary_line(summary: dict[str, Any]) -> str:
    """One line for a person: what was measured before and after, and what it took."""
    before, after = (figures if isinstance(figures, dict) else {} for figures in map(summary.get, ("before", "after")))
    labels = {"pass@1": "held-out pass@1", "cons@16": "cons@16", "mean_length": "mean length"}
    both = [key for key in labels if key in before and key in after]
    parts = [f"{labels[key]} {before[key]:.3g} -> {after[key]:.3g}" for key in both]
    if "updates" in summary:
        parts.append(f"{summary['updates']} updates")
    if "claims" in summary:
        parts.append(f"{summary['held']} of {summary['claims']} claims held")
    minutes, seconds = divmod(round(summary["wall_seconds"]), 60)
    return ", ".join([*parts, f"{minutes} min {seconds} s", f"seed {summary['seed']}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    try:
        options, overrides = _parse(arguments)
    except ConfigError as error:
        print(f"error: {error}\n`r1jax run --help` shows the flags", file=sys.stderr)
        return BAD_INPUT
    workdir = options.workdir
    try:
        experiment = load_experiment(options.config, overrides, seed=options.seed)
        for folder in (Path.cwd(), Path(experiment.file).resolve().parent):
            import_from(folder)
        if options.help:
            return _show_fields(chosen_stages(plan_stages(experiment, Path("WORKDIR")), options.stages, options.skip))
        if workdir is None:
            raise ConfigError("--workdir=DIR is missing: where everything is written")
        logging.set_verbosity(logging.WARNING)
        keep_freed_memory()
        initialise(options)
        check_backend()
        use_compilation_cache()
        done = run_and_report(experiment, workdir, only=options.stages, skip=options.skip)
        if done is None:
            _print(f"stopped; the same command goes on from the last checkpoint in {workdir}")
            return STOPPED
        if not is_first():
            return 0
        summary, report = done
    except Exception as error:
        if lost_a_peer(error):
            print(f"error: another process of this run was lost: {error}", file=sys.stderr)
            print(f"the same command goes on from the last checkpoint in {workdir}", file=sys.stderr)
            return leave_at_once(STOPPED)
        is_ours = type(error).__module__.startswith("r1jax.") or isinstance(error, ValueError | OSError)
        if options.traceback or not is_ours:
            raise
        _print_error(error, workdir)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"stopped at once; the same command goes on from the last checkpoint in {workdir}", flush=True)
        return leave_at_once(STOPPED)
    print(f"{summary_line(summary)}\nreport: {report}", flush=True)
    return 0


def check_backend() -> None:
    """Raises ConfigError where JAX finds no devices of the platform that it is asked for."""
    try:
        jax.devices()
    except Exception as error:
        platform = os.environ.get("JAX_PLATFORMS")
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        asked = f"JAX_PLATFORMS={platform}: JAX" if platform else "JAX"
        raise ConfigError(
            f"{asked} finds no devices ({reason}); unset JAX_PLATFORMS for the CPU, or install jax for your accelerator"
        ) from error


def _show_fields(stages: Sequence[PlannedStage]) -> int:
    """Prints each stage's fields: value, default, explanation."""
    text = "\n".join(describe_stage(stage.name, stage.spec) for stage in stages)
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head` has seen enough; what is left must not be written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message):
        raise ConfigError(message)


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The front door's own flags, and those that change the config."""
    names = functools.partial(re.findall, r"[^,\s]+")
    parser = _Parser(
        prog="r1jax run",
        description="Runs the stages of one config file in one work directory; a second start goes on or skips.",
        epilog="--config.a.b=value sets a value, for example --config.stages.zero.num_updates=20; --config=F --help shows all of them",
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this; with --config, every field of its stages")
    parser.add_argument("--config", metavar="FILE.py[:ARGUMENT]", help="the experiment")
    parser.add_argument(
        "--workdir", type=lambda text: Path(os.path.expanduser(text)), metavar="DIR", help="where everything is written"
    )
    parser.add_argument("--seed", type=int, help="the seed of every stage that has none of its own")
    parser.add_argument("--stages", type=names, metavar="A,B", help="run these stages of the config only")
    parser.add_argument("--skip", type=names, metavar="C", default=(), help="leave these stages out")
    parser.add_argument("--traceback", action="store_true", help="on bad input show where it was raised")
    add_arguments(parser)
    options, overrides = parser.parse_known_args(arguments)
    if options.config is None:
        if options.help:
            parser.print_help()
            parser.exit(0)
        parser.error("--config=FILE.py is missing: the experiment")
    return options, overrides


def _total(planned: Sequence[PlannedStage], summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The summary of a run: its last stage's, the time of all that are done, now or before, and each stage's own."""
    each = {stage.name: summaries.get(stage.name) or read_summary(stage.workdir, stage.spec) for stage in planned}
    done = {name: summary for name, summary in each.items() if summary}
    *_, last = done.values()
    seconds = sum(summary.get("wall_seconds", 0.0) for summary in done.values())
    return {**last, "wall_seconds": seconds, "stages": done}


def _print(text: str) -> None:
    if is_first():
        print(text, flush=True)


def _print_error(error: Exception, workdir: Path | None) -> None:
    """Prints the error without its traceback, which goes into the work directory where there is one.

    What went wrong in another process, that one says.
    """
    if isinstance(error, OtherProcessError):
        return
    print(f"error: {error or type(error).__name__}", file=sys.stderr)
    hint = "--traceback shows where it was raised"
    if workdir is not None and workdir.is_dir():
        try:
            (workdir / "error.txt").write_text("".join(traceback.format_exception(error)))
            hint = f"where it was raised: {workdir / 'error.txt'}"
        except OSError:
            pass
    print(hint, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
