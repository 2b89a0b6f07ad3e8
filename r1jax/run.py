"""The front door: one config file, one work directory, its stages in order.

    python -m r1jax.run --config=configs/X.py[:argument] --workdir=DIR [--seed=N] [--config.a.b=value ...]

A config file defines `get_config()`, or `get_config(argument)`, which returns a ConfigDict with the key `stages`: an
ordered ConfigDict (`sort_keys=False`) from a name to a stage's config, whose key `stage` names the module in
`r1jax.stages`. Each stage runs in DIR/<name>, or in its own `workdir`. In string values "{workdir}" at the start
stands for DIR, "{<name>}" for the directory of an earlier stage, and in a stage's `workdir` "{hash}" for a digest of
its config, so that a base model is made once and used by every run that asks for the same one.

A stage that is DONE with the same config is skipped, one that was interrupted goes on from its last checkpoint.
Exit codes: 0 done, 2 bad input (said in one line), 75 stopped by a signal, the same command goes on.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import json
import os
import pkgutil
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

import r1jax.stages
from r1jax.launch.compilation_cache import use_compilation_cache
from r1jax.launch.host_memory import keep_freed_memory
from r1jax.report import write_report
from r1jax.training.workdir import open_workdir, write_json

BAD_INPUT = 2
STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again


class ConfigError(ValueError):
    """A config, or a flag that changes it, cannot be used; the message names the key and the file."""


class LiteralParser(flags.ArgumentParser):
    """Reads a flag's value as a Python literal, for the keys whose type alone does not say how to read it."""

    def __init__(self, kind: type):
        super().__init__()
        self.kind = kind  # the type of the key's value now; NoneType may become anything

    def parse(self, argument: Any) -> Any:
        """The value of a flag; what is no string is a default and stays. Raises ValueError for another type."""
        if not isinstance(argument, str):
            return argument
        try:
            value = ast.literal_eval(argument)
        except (SyntaxError, ValueError):
            value = argument
        if self.kind is not type(None) and not isinstance(value, self.kind):
            raise ValueError(f"must be a {self.kind.__name__} in Python's notation")
        return value


for _kind in (list, dict, type(None)):
    config_flags.register_flag_parser_for_type(_kind, LiteralParser(_kind))


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a run, ready to start."""

    name: str  # key in config.stages
    module: ModuleType  # r1jax.stages.<stage>, which has main(config, workdir) and may have check(config)
    workdir: Path  # its own work directory
    config: ConfigDict  # locked; references and placeholders resolved; without "workdir"


def load_config(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The locked config of `path` ("configs/X.py" or "configs/X.py:argument") with overrides like "--config.a.b=1".

    Raises ConfigError if the file or a key does not exist or a value does not fit its key's type.
    """
    file, _, argument = path.partition(":")
    spec = importlib.util.spec_from_file_location("r1jax_config", file)
    if not Path(file).is_file() or spec is None or spec.loader is None:
        raise ConfigError(f"--config: there is no Python file {file}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{file} defines no get_config()")
    config = module.get_config(argument) if argument else module.get_config()
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"get_config() of {file} returned {type(config).__name__}, not a ConfigDict")
    config.lock()
    _override(config, overrides, path=file)
    return config


def make_stages(config: ConfigDict, workdir: Path) -> list[Stage]:
    """The stages of `config` in order, each with its module, its directory and its resolved config.

    Raises ConfigError if there are none, their order is lost, a module is missing or a module's `check` objects;
    WorkdirError if a stage's directory holds a run of another config.
    """
    stages: Any = config.get("stages")
    if not isinstance(stages, ConfigDict) or not stages:
        raise ConfigError("the config has no stages: a ConfigDict from a name to a stage's config")
    if len(stages) > 1 and stages._sort_keys:
        raise ConfigError("stages would run in alphabetical order: make them with ConfigDict(..., sort_keys=False)")
    directories = {"workdir": workdir}
    planned = []
    for name, values in stages.to_dict().items():
        if name in directories:
            raise ConfigError(f"stages.{name}: the name {name!r} is taken by a placeholder")
        values = _resolve(values, directories)
        where = values.pop("workdir", None)
        digest = hashlib.sha256(_to_json(values, name=name).encode()).hexdigest()[:10]
        directories[name] = Path(os.path.normpath(where.replace("{hash}", digest))) if where else workdir / name
        stage_config = ConfigDict(values).lock()
        planned.append(Stage(name, _stage_module(name, values.get("stage")), directories[name], stage_config))
    for stage in planned:
        if hasattr(stage.module, "check"):
            stage.module.check(stage.config)
        if read_done(stage) is None:
            open_workdir(stage.workdir, stage.config.to_dict())  # refuses another config's, or a place it cannot write
    return planned


def run_stages(stages: Sequence[Stage]) -> dict[str, dict[str, Any]] | None:
    """Runs each stage that is not DONE; returns the summaries by name, or None if one was stopped by a signal."""
    summaries = {}
    for stage in stages:
        summary = read_done(stage)
        if summary is not None:
            print(f"{stage.name}: done before, kept as it is in {stage.workdir}", flush=True)
        else:
            print(f"{stage.name}: {stage.config.stage} in {stage.workdir}", flush=True)
            start = time.monotonic()
            summary = stage.module.main(stage.config, stage.workdir)
            if not (stage.workdir / "DONE").exists():
                return None
            summary = {"wall_seconds": time.monotonic() - start, **summary}
        summaries[stage.name] = summary
    return summaries


def read_done(stage: Stage) -> dict[str, Any] | None:
    """The summary of a stage that has ended with the same config; None if it has still to run."""
    same = _read_json(stage.workdir / "config.json") == json.loads(stage.config.to_json())
    return _read_json(stage.workdir / "summary.json") if same and (stage.workdir / "DONE").exists() else None


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


def _override(config: ConfigDict, overrides: Sequence[str], *, path: str) -> None:
    """Applies flags like --config.a.b=1 to a locked config, in place."""
    for flag in overrides:
        name = flag.partition("=")[0]
        if flag.startswith("-") and not name.lstrip("-").startswith(("config.", "noconfig.")):
            raise ConfigError(f"unknown flag {name}; flags of the config begin with --config.")
    argv = ["r1jax.run", *overrides]
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        left = values(argv)[1:]
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        known = list(_keys(config.to_dict()))
        for flag in overrides:
            key = flag.partition("=")[0].lstrip("-").partition(".")[2]
            if key not in known:
                raise ConfigError(f"{path} has no key {key}{_near(key, known)}") from error
        raise ConfigError(str(error)) from error
    except flags.Error as error:
        raise ConfigError(" ".join(str(error).split())) from error
    if left:
        raise ConfigError(f"{left[0]!r} is not a flag; write --config.key=value")


def _keys(value: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of every value below `value`, inner nodes too: a, a.b, a.rewards[0].weight."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, child in children:
        name = f"{prefix}[{key}]" if isinstance(key, int) else f"{prefix}.{key}".lstrip(".")
        yield name
        yield from _keys(child, name)


def _near(key: str, known: Sequence[str]) -> str:
    """A hint with the known keys most like `key`, or nothing."""
    same_end = [other for other in known if difflib.get_close_matches(_last(key), [_last(other)], cutoff=0.75)]
    near = difflib.get_close_matches(key, same_end, n=3, cutoff=0.0) or difflib.get_close_matches(key, known, n=3)
    return f"; near it: {', '.join(near)}" if near else ""


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _resolve(value: Any, directories: dict[str, Path]) -> Any:
    """`value` with "{name}" at the start of every string replaced by the directory of that name."""
    if isinstance(value, dict):
        return {key: _resolve(child, directories) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_resolve(child, directories) for child in value)
    if isinstance(value, str) and value.startswith("{"):
        name, closed, rest = value[1:].partition("}")
        if closed and name in directories and rest[:1] in ("", "/"):
            return str(directories[name]) + rest
    return value


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


def _read_json(path: Path) -> Any:
    """What a JSON file holds; None if there is none or it is damaged."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None


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
