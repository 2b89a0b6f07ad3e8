"""The front door: one config file, one work directory, its stages in order.

    python -m r1jax.run --config=configs/X.py[:argument] --workdir=DIR [--seed=N] [--config.a.b=value ...]

A config file defines `get_config()`, or `get_config(argument)`, which returns a ConfigDict with the key `stages`: an
ordered ConfigDict (`sort_keys=False`) from a name to a stage's config, whose key `stage` names the module in
`r1jax.stages`. Each stage runs in DIR/<name>, or in its own `workdir`. In string values "{workdir}/..." stands for
a path below DIR and "{<name>}" or "{<name>}/..." for the directory of an earlier stage, and in a stage's `workdir`
"{hash}" for a digest of its config and of the source of the modules that its "module:function" strings name, so that a
base model is made once and used by every run that asks for the same one.

A stage that is DONE with the same config is skipped, one that was interrupted goes on from its last checkpoint; where
a module that the config names was edited since, a line says so and what is there stays. Directories may be moved as
long as they lie as before to each other: config.json holds the paths between them relative to its own place.

The first Ctrl-C or SIGTERM ends the run when the update or the evaluation's batch under way is done: all is saved,
no further stage starts. A second one quits at once.
Exit codes: 0 done, 2 bad input or a run that cannot go on (said in one line), 75 stopped by a signal, the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib
import json
import os
import pkgutil
import re
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import logging
from ml_collections import ConfigDict

import r1jax.stages
from r1jax.config_file import ConfigError, load_config
from r1jax.launch.compilation_cache import use_compilation_cache
from r1jax.launch.host_memory import keep_freed_memory
from r1jax.report import write_report
from r1jax.training.code_digest import code_digests
from r1jax.training.stop import Stopped, graceful_stop
from r1jax.training.workdir import changed_code, from_here, is_done, open_workdir, to_here, write_json

BAD_INPUT = 2
STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again
PATH_KEYS = ("path", "workdir")
"""Keys whose values are paths: a "{" at their start is always meant as a placeholder."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a run, ready to start."""

    name: str  # key in config.stages
    module: ModuleType  # r1jax.stages.<stage>, which has main(config, workdir) and may have check(config)
    workdir: Path  # its own work directory
    config: ConfigDict  # locked; references and placeholders resolved; without "workdir"
    changed_code: tuple[str, ...]  # what the config names whose source has changed since the directory's latest start


def make_stages(config: ConfigDict, workdir: Path) -> list[Stage]:
    """The stages of `config` in order, each with its module, its directory and its resolved config.

    Raises ConfigError if there are none, their order is lost, a module or placeholder is unknown or a module's `check`
    objects; WorkdirError if a stage's directory holds a run of another config, or one that is under way.
    """
    stages: Any = config.get("stages")
    if not isinstance(stages, ConfigDict) or not stages:
        raise ConfigError("the config has no stages: a ConfigDict from a name to a stage's config")
    if len(stages) > 1 and stages._sort_keys:
        raise ConfigError("stages would run in alphabetical order: make them with ConfigDict(..., sort_keys=False)")
    directories = {"workdir": Path(os.path.abspath(workdir))}
    planned, written = [], []
    for name, values in stages.to_dict().items():
        if name in (*directories, "here", "hash"):
            raise ConfigError(f"stages.{name}: the name {name!r} is taken by a placeholder")
        path, values = _place(name, values, directories)
        directories[name] = path
        written.append(values)
        stage_config = ConfigDict(from_here(values, path)).lock()
        module = _stage_module(name, values.get("stage"))
        planned.append(Stage(name, module, path, stage_config, tuple(changed_code(path, values))))
    for stage in planned:
        if hasattr(stage.module, "check"):
            stage.module.check(stage.config)
    for stage, values in zip(planned, written, strict=True):
        if read_done(stage) is None:
            with open_workdir(stage.workdir, values):
                pass  # refuses another config's, a place it cannot write, or one where another run is at work
    return planned


def run_stages(stages: Sequence[Stage]) -> dict[str, dict[str, Any]] | None:
    """Runs each stage that is not DONE; returns the summaries by name, or None if a signal stopped it before the end."""
    summaries = {}
    with graceful_stop() as stop:
        for stage in stages:
            edited = "".join(f"; {code} was edited since" for code in stage.changed_code)
            summary = read_done(stage)
            try:
                if summary is not None:
                    print(f"{stage.name}: done before, kept as it is in {stage.workdir}{edited}", flush=True)
                else:
                    stop.check()
                    print(f"{stage.name}: {stage.config.stage} in {stage.workdir}{edited}", flush=True)
                    start = time.monotonic()
                    summary = stage.module.main(stage.config, stage.workdir)
                    summary = {"wall_seconds": time.monotonic() - start, **summary}
            except Stopped:
                return None
            summaries[stage.name] = summary
    return summaries


def read_done(stage: Stage) -> dict[str, Any] | None:
    """The summary of a stage that has ended with the same config; None if it has still to run."""
    if not is_done(stage.workdir, stage.config.to_dict()):
        return None
    try:
        return json.loads((stage.workdir / "summary.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def headline(summary: dict[str, Any]) -> str:
    """One line for a person: what was measured before and after, and what it took."""
    parts = []
    before, after = summary.get("before"), summary.get("after")
    if isinstance(before, dict) and isinstance(after, dict):
        labels = {"pass@1": "held-out pass@1", "cons@16": "cons@16", "mean_length": "mean length"}
        parts = [
            f"{label} {before[key]:.3g} -> {after[key]:.3g}"
            for key, label in labels.items()
            if key in before and key in after
        ]
    if "updates" in summary:
        parts.append(f"{summary['updates']} updates")
    minutes, seconds = divmod(round(summary["wall_seconds"]), 60)
    return ", ".join([*parts, f"{minutes} min {seconds} s", f"seed {summary['seed']}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options, overrides = _parse(arguments)
    workdir = options.workdir
    try:
        if options.seed is not None:
            overrides = [f"--config.seed={options.seed}", *overrides]
        config = load_config(options.config, overrides)
        logging.set_verbosity(logging.WARNING)
        keep_freed_memory()
        use_compilation_cache()
        summaries = run_stages(make_stages(config, workdir))
        if summaries is None:
            print(f"stopped; the same command goes on from the last checkpoint in {workdir}", flush=True)
            return STOPPED
        summary = {**_total(summaries), "seed": config.get("seed")}
        write_json(workdir / "summary.json", summary)
        report = write_report(workdir)
    except Exception as error:
        is_ours = type(error).__module__.startswith("r1jax.") or isinstance(error, ValueError | OSError)
        if options.traceback or not is_ours:
            raise
        _say(error, workdir)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"stopped at once; the same command goes on from the last checkpoint in {workdir}", flush=True)
        return STOPPED
    print(f"{headline(summary)}\nreport: {report}", flush=True)
    return 0


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The front door's own flags, and those that change the config."""
    parser = argparse.ArgumentParser(
        prog="python -m r1jax.run",
        description="Runs the stages of one config file in one work directory; a second start goes on or skips.",
        epilog="--config.a.b=value changes a value of the config, for example --config.stages.zero.num_updates=20",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARGUMENT]", help="the experiment")
    parser.add_argument("--workdir", required=True, type=Path, metavar="DIR", help="where everything is written")
    parser.add_argument("--seed", type=int, help="short for --config.seed")
    parser.add_argument("--traceback", action="store_true", help="on bad input show where it was raised")
    return parser.parse_known_args(arguments)


def _place(name: str, values: dict[str, Any], directories: dict[str, Path]) -> tuple[Path, dict[str, Any]]:
    """A stage's directory, and its config with every path to another directory written relative to it."""
    where = values.pop("workdir", None) or f"{{workdir}}/{name}"
    places = {"hash": "{hash}"} | {key: str(path) for key, path in directories.items()}
    if "{" in _resolve(where, dict.fromkeys(places, ""), key=f"stages.{name}.workdir").replace("{hash}", ""):
        raise _unknown_placeholder(f"stages.{name}.workdir", where, places)
    path = Path(os.path.abspath(_resolve(where, places, key=f"stages.{name}.workdir")))
    values = _resolve(values, {key: to_here(other, path) for key, other in directories.items()}, key=f"stages.{name}")
    told = _to_json({"config": values, "code": code_digests(values)}, name=name)
    digest = hashlib.sha256(told.encode()).hexdigest()[:10]
    return Path(str(path).replace("{hash}", digest)), values


def _resolve(value: Any, places: dict[str, str], *, key: str) -> Any:
    """`value` with the strings "{name}" and "{name}/..." made paths, by `places`.

    Other strings with braces stay, unless they can only be meant as a path: what is "{name}/..." with no further brace,
    or begins with a brace and belongs to one of PATH_KEYS. Those raise ConfigError naming `key`.
    """
    if isinstance(value, dict):
        return {name: _resolve(child, places, key=f"{key}.{name}") for name, child in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_resolve(child, places, key=f"{key}[{place}]") for place, child in enumerate(value))
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\{(\w+)\}((?:/.*)?)", value, re.DOTALL)
    if match and match[1] in places:
        return places[match[1]] + match[2]
    is_path = key.rpartition(".")[2] in PATH_KEYS and value.startswith("{")
    if is_path or (match and match[2] and not re.search(r"[{}\s]", match[2])):
        raise _unknown_placeholder(key, value, places)
    return value


def _unknown_placeholder(key: str, value: str, known: Iterable[str]) -> ConfigError:
    return ConfigError(f"{key}={value!r}: unknown placeholder; known are {', '.join(f'{{{name}}}' for name in known)}")


def _stage_module(name: str, stage: Any) -> ModuleType:
    """The module r1jax.stages.<stage>; ConfigError with the stages that there are if it is none of them."""
    if isinstance(stage, str) and stage.isidentifier():
        try:
            module = importlib.import_module(f"r1jax.stages.{stage}")
        except ModuleNotFoundError as error:
            if error.name != f"r1jax.stages.{stage}":
                raise
        else:
            if hasattr(module, "main"):
                return module
    there = sorted(info.name for info in pkgutil.iter_modules(r1jax.stages.__path__))
    raise ConfigError(f"stages.{name}.stage is {stage!r}, which is none of the stages: {', '.join(there)}")


def _total(summaries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The summary of a run: its last stage's, the time of all stages, and each stage's own."""
    *_, last = summaries.values()
    seconds = sum(summary["wall_seconds"] for summary in summaries.values())
    return {**last, "wall_seconds": seconds, "stages": summaries}


def _to_json(value: Any, *, name: str) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except TypeError as error:
        raise ConfigError(f"stages.{name}: a config holds numbers, strings, lists and dicts only: {error}") from error


def _say(error: Exception, workdir: Path) -> None:
    """Prints the error without its traceback, which goes into the work directory where there is one."""
    print(f"error: {error or type(error).__name__}", file=sys.stderr)
    hint = "--traceback shows where it was raised"
    if workdir.is_dir():
        try:
            (workdir / "error.txt").write_text("".join(traceback.format_exception(error)))
            hint = f"where it was raised: {workdir / 'error.txt'}"
        except OSError:
            pass
    print(hint, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
