"""Config files, which README explains: Python files that define `get_config()`, and the flags that change what it
returns.

`--config.stages.NAME.field=value` sets any field, in the file or not; `--config.key=value` any other key of the file,
with all that refers to it. A config file may import the modules that lie next to it, as a script may.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import RequiredValueError

from r1jax.specs.fields import Seed
from r1jax.specs.reader import FlagText, SpecError, near, read

_STEP = re.compile(r"(\w+)((?:\[\d+\])*)")
_UNFILLED = object()


class ConfigError(ValueError):
    """A config, or a flag that changes it, cannot be used; the message names the key and the file."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a config file and the flags say; `r1jax.pipeline` reads its stages as specs."""

    file: str  # as the user wrote it
    seed: int  # of the stages that have none of their own
    stages: dict[str, dict[str, Any]]  # name -> what the file says of the stage, in order


def load_experiment(path: str, overrides: Sequence[str] = (), *, seed: int | None = None) -> Experiment:
    """The experiment of `path` ("configs/X.py" or "configs/X.py:argument") with overrides like "--config.a.b=1".

    seed: in the place of the file's own. ConfigError: no such file, it cannot be run, or a flag that it cannot take.
    """
    file, _, argument = path.partition(":")
    config = _run(file, argument)
    flags = [_split(flag) for flag in overrides] + ([] if seed is None else [("seed", str(seed))])
    try:
        for key, text in flags:
            if not key.startswith("stages."):
                _set_shared(config, key, text)
        stages: Any = config.get("stages")
        if not isinstance(stages, ConfigDict) or not stages:
            raise SpecError("the config has no stages: a dict from a name to a stage's config")
        if len(stages) > 1 and stages._sort_keys:
            raise SpecError("stages would run in alphabetical order: make them with ConfigDict(..., sort_keys=False)")
        values = _own(stages)
        for name, stage in values.items():
            if not re.fullmatch(r"\w+", str(name), re.ASCII):
                raise SpecError(f"the stage {name!r}: a name has letters, digits and underscores only")
            if not isinstance(stage, dict):
                raise SpecError(f"stages.{name}={stage!r} must be a dict")
        experiment = Experiment(file=file, seed=read(Seed, config.get("seed", 0), "seed"), stages=values)
    except SpecError as error:
        raise ConfigError(f"{file}: {error}") from error
    return with_flags(experiment, [f"--config.{key}={text}" for key, text in flags if key.startswith("stages.")])


def with_flags(experiment: Experiment, flags: Sequence[str]) -> Experiment:
    """A copy with other values, like "--config.stages.rl.kl_coef=0" and "--config.seed=1".

    The file's own shared keys are gone by now. Raises ConfigError for a flag that it cannot take.
    """
    stages, seed = _own(experiment.stages), experiment.seed
    try:
        for key, text in map(_split, flags):
            if key.startswith("stages."):
                _set(stages, key.removeprefix("stages."), text)
            elif key == "seed":
                seed = read(Seed, FlagText(text), "seed")
            else:
                of_stage = key.partition(".")[0] in stages
                hint = f"; near it: stages.{key}" if of_stage else near(key, ["seed", "stages"])
                raise SpecError(f"there is no key {key!r}{hint}")
    except SpecError as error:
        raise ConfigError(f"{experiment.file}: {error}") from error
    return dataclasses.replace(experiment, seed=seed, stages=stages)


def import_from(folder: Path) -> None:
    """Lets functions be named that are in modules of `folder`, from now on and before modules of the same name elsewhere."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _run(file: str, argument: str) -> ConfigDict:
    """What `get_config` of a file returns."""
    get_config = run_file(file, flag="--config").get("get_config")
    if get_config is None:
        raise ConfigError(f"{file} defines no get_config()")
    with naming_line(file):
        config = get_config(*filter(None, [argument]))
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{file}: get_config() returned a {type(config).__name__}, not a ConfigDict")
    return config


def run_file(file: str, *, flag: str) -> dict[str, Any]:
    """What a Python file defines, by name. Raises ConfigError: no such file (naming `flag`), or it cannot be run."""
    path = Path(file).resolve()
    if not path.is_file() or path.suffix != ".py":
        raise ConfigError(f"{flag}={file}: there is no such Python file")
    with naming_line(file):
        return runpy.run_path(str(path), run_name="r1jax_config")


@contextlib.contextmanager
def naming_line(file: str) -> Iterator[None]:
    """Code of a Python file may run meanwhile; what it raises becomes a ConfigError with the file and, if known, the line."""
    path = Path(file).resolve()
    try:
        with _importing_from(path.parent):
            yield
    except SyntaxError as error:
        raise ConfigError(f"{error.filename or file}, line {error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{file}, line {lines[-1]}" if lines else file
        raise ConfigError(f"{where}: {type(error).__name__}: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Modules of `folder` can be imported meanwhile; none stays loaded, for another folder may have one of that name."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == folder:
                del sys.modules[name]


def _split(flag: str) -> tuple[str, str]:
    """(key, text) of "--config.key=text"."""
    name, equals, text = flag.partition("=")
    if not name.startswith("-"):
        raise ConfigError(f"{flag!r} is not a flag; write --config.key=value")
    if not name.startswith("--config."):
        raise ConfigError(f"unknown flag {name}; flags of the config begin with --config.")
    if not equals:
        raise ConfigError(f"{name}: write {name}=value")
    return name.removeprefix("--config."), text


def _set_shared(config: ConfigDict, key: str, text: str) -> None:
    """Sets a key that is no stage's, "seed" or "shared.rate", and with it all that refers to it; its type stays."""
    *parents, name = key.split(".")
    node: Any = config
    for step in parents:
        node = node.get(step) if isinstance(node, ConfigDict) else None
    if not isinstance(node, ConfigDict) or (name not in node and key != "seed"):
        stages = config.get("stages")
        of_stage = isinstance(stages, ConfigDict) and key.partition(".")[0] in stages
        hint = f"; near it: stages.{key}" if of_stage else near(key, [*config, "seed"])
        raise SpecError(f"there is no key {key!r}{hint}")
    before = node.get(name, 0)
    if isinstance(before, ConfigDict):
        example = f"--config.{key}.{next(iter(before), 'key')}=1"
        raise SpecError(f"--config.{key} is a dict; set a key below it, as in {example}")
    with node.unlocked():
        node[name] = read(Any if before is None else type(before), FlagText(text), key)


def _own(value: Any) -> Any:
    """A copy of which no part is shared with another (a list that two stages hold); ConfigDicts become dicts.

    A required placeholder that nothing has filled is left out: the reader says that the key is missing, and a flag may
    set it.
    """
    if isinstance(value, ConfigDict):
        value = dict(value.items(preserve_field_references=True))
    if isinstance(value, FieldReference):
        try:
            value = value.get()
        except RequiredValueError:
            return _UNFILLED
    if isinstance(value, dict):
        return {key: inner for key, item in value.items() if (inner := _own(item)) is not _UNFILLED}
    return type(value)(map(_own, value)) if type(value) in (list, tuple) else value


def _set(stages: dict[str, Any], key: str, text: str) -> None:
    """Sets what is below a stage, "zero.rewards[0].weight"; dicts on the way that the file does not have are made."""
    flag, steps = f"--config.stages.{key}", []
    for part in key.split("."):
        match = _STEP.fullmatch(part)
        if match is None:
            raise SpecError(f"{flag}: {part!r} is no key")
        steps += [match[1], *map(int, re.findall(r"\d+", match[2]))]
    if steps[0] not in stages:
        raise SpecError(f"there is no stage {steps[0]!r}{near(steps[0], stages)}")
    if len(steps) == 1:
        raise SpecError(f"{flag}: name a field of the stage, as in {flag}.seed={text}")
    node: Any = stages
    for depth, step in enumerate(steps):
        if isinstance(step, int):
            count = len(node) if isinstance(node, list) else 0
            if step >= count:
                name = str(steps[depth - 1])
                entries = f"{name.removesuffix('s')}(s)" if name.endswith("s") else "entries"
                raise SpecError(f"{flag}: the file has {count} {entries} there; add it in the file")
        elif not isinstance(node, dict):
            where = "stages." + ".".join(map(str, steps[: depth + 1]))
            raise SpecError(f"{flag}: {where} is below {node!r}, which has no keys")
        if depth == len(steps) - 1:
            node[step] = FlagText(text)
            return
        if isinstance(node, dict) and node.get(step) is None:
            node[step] = {}
        if isinstance(node[step], tuple):
            node[step] = list(node[step])
        node = node[step]
