"""The stages of a config: which directory each has, what their placeholders stand for, which of them are to run.

What can be told before anything runs is checked here; `r1jax.run` runs them and says what a config is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

import r1jax.stages
from r1jax.specs.config_file import ConfigError
from r1jax.workdir.code_digest import code_digests
from r1jax.workdir.directory import (
    WorkdirError,
    changed_code,
    check_same_config,
    from_here,
    open_workdir,
    read_summary,
    to_here,
)

_PATH_KEY = re.compile(r"(.*[._])?(path|workdir|paths(\[\d+\]|\.[^.]+)?)")
"""Keys of a config whose values are paths: a "{" at their start is always meant as a placeholder."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a run, ready to start."""

    name: str  # key in config.stages
    module: ModuleType  # r1jax.stages.<stage>, which has main(config, workdir) and may have check(config)
    workdir: Path  # its own work directory
    config: ConfigDict  # locked; references and placeholders resolved; without "workdir"
    written: Mapping[str, Any]  # the same as config.json holds it: paths relative to the directory
    changed_code: tuple[str, ...]  # what the config names whose source has changed since the directory's latest start


def make_stages(
    config: ConfigDict, workdir: Path, *, only: Sequence[str] | None = None, skip: Sequence[str] = ()
) -> list[Stage]:
    """The stages to run, of `config` in its order, when all that can be told before they run has been checked.

    only, skip: names of the stages that are chosen, all by default, and that are not.

    Raises what `plan_stages` raises; ConfigError for a name that is unknown, nothing chosen, a module's `check` that
    objects, or an input that was not made or by another config; WorkdirError if a stage's directory holds a run of another
    config, or one that is under way.
    """
    planned = plan_stages(config, workdir)
    names = [stage.name for stage in planned]
    for flag, given in (("--stages", only or ()), ("--skip", skip)):
        if unknown := [name for name in given if name not in names]:
            raise ConfigError(f"{flag}: there is no stage {unknown[0]!r}; there are {', '.join(names)}")
    chosen = [stage for stage in planned if (only is None or stage.name in only) and stage.name not in skip]
    if not chosen:
        raise ConfigError(f"--stages and --skip leave none of the stages {', '.join(names)}")
    to_run = [stage for stage in chosen if read_summary(stage.workdir, stage.config.to_dict()) is None]
    for stage in to_run:
        _check_inputs(stage, [other for other in planned[: names.index(stage.name)] if other not in chosen])
        _check_models(stage, planned)
    for stage in chosen:
        if hasattr(stage.module, "check"):
            stage.module.check(stage.config)
    for stage in to_run:
        with open_workdir(stage.workdir, stage.written):
            pass  # refuses another config's, a place it cannot write, or one where another run is at work
    return chosen


def plan_stages(config: ConfigDict, workdir: Path) -> list[Stage]:
    """All stages of `config` in order, each with its module, its directory and its resolved config.

    Raises ConfigError if there are none, their order is lost, or a module or placeholder is unknown.
    """
    stages: Any = config.get("stages")
    if not isinstance(stages, ConfigDict) or not stages:
        raise ConfigError("the config has no stages: a ConfigDict from a name to a stage's config")
    if len(stages) > 1 and stages._sort_keys:
        raise ConfigError("stages would run in alphabetical order: make them with ConfigDict(..., sort_keys=False)")
    directories = {"workdir": Path(os.path.abspath(workdir))}
    planned = []
    for name, values in stages.to_dict().items():
        if name in (*directories, "here", "hash"):
            raise ConfigError(f"stages.{name}: the name {name!r} is taken by a placeholder")
        path, values = _place(name, values, directories)
        directories[name] = path
        stage_config = ConfigDict(from_here(values, path)).lock()
        module = _stage_module(name, values.get("stage"))
        planned.append(Stage(name, module, path, stage_config, values, tuple(changed_code(path, values))))
    return planned


def _check_inputs(stage: Stage, others: Sequence[Stage]) -> None:
    """Raises ConfigError if what `stage` reads of `others`, which do not run now, is not there or of another config.

    What those read in turn may be gone, but not of another config.
    """
    coming = [stage]
    while coming:
        reader = coming.pop()
        for key, source in _inputs(reader, others):
            where = f"stages.{reader.name}.{key}: reads what the stage {source.name!r} makes"
            if reader is stage and not (source.workdir / "DONE").exists():
                raise ConfigError(
                    f"{where}, which is not done in {source.workdir}: run it before, with --stages={source.name}"
                )
            if (source.workdir / "config.json").exists():
                try:
                    check_same_config(source.workdir, source.written)
                except WorkdirError as error:
                    raise ConfigError(f"{where}, but {error}") from error
            coming.append(source)


def _inputs(stage: Stage, others: Sequence[Stage]) -> Iterator[tuple[str, Stage]]:
    """(key, the one of `others` in or below whose directory its path is) of every path of a stage's config."""
    for key, text in _nodes(stage.config.to_dict()):
        if isinstance(text, str) and text.startswith("/"):
            yield from ((key, other) for other in others if Path(text).is_relative_to(other.workdir))


def _check_models(stage: Stage, planned: Sequence[Stage]) -> None:
    """Raises ConfigError for a model that `stage` starts from, that no stage of this config makes and that is not there."""
    for key, spec in _nodes(stage.config.to_dict()):
        if not isinstance(spec, dict) or not isinstance(spec.get("path"), str):
            continue
        path, where = Path(os.path.abspath(spec["path"])), f"stages.{stage.name}.{key}.path"
        if any(path.is_relative_to(other.workdir) for other in planned):
            continue
        if spec.get("kind") in ("stage", "reward_model") and not (path / "DONE").exists():
            raise ConfigError(f"{where}: {path} is not the work directory of a finished stage: it has no DONE")
        if spec.get("kind") == "hf" and not path.is_dir():
            raise ConfigError(f"{where}: there is no folder {path}")


def _nodes(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a config, what holds other values too."""
    yield key, value
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _nodes(child, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for place, child in enumerate(value):
            yield from _nodes(child, f"{key}[{place}]")


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
    or begins with a brace at the key of a path. Those raise ConfigError naming `key`.
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
    is_path = _PATH_KEY.fullmatch(key) and value.startswith("{")
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


def _to_json(value: Any, *, name: str) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except TypeError as error:
        raise ConfigError(f"stages.{name}: a config holds numbers, strings, lists and dicts only: {error}") from error
