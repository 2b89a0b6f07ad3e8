"""Config files: Python files that define `get_config()`, and the flags that change a value of what it returns.

A config file may import the modules that lie beside it, as a script may: what several experiments share.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags


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


def load_config(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The locked config of `path` ("configs/X.py" or "configs/X.py:argument") with overrides like "--config.a.b=1".

    Raises ConfigError if the file or a key does not exist or a value does not fit its key's type.
    """
    file, _, argument = path.partition(":")
    spec = importlib.util.spec_from_file_location("r1jax_config", file)
    if not Path(file).is_file() or spec is None or spec.loader is None:
        raise ConfigError(f"--config: there is no Python file {file}")
    module = importlib.util.module_from_spec(spec)
    with _beside(Path(file).resolve().parent):
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ConfigError(f"{file} defines no get_config()")
        config = module.get_config(argument) if argument else module.get_config()
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"get_config() of {file} returned {type(config).__name__}, not a ConfigDict")
    config.lock()
    _override(config, overrides, path=file)
    return config


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[None]:
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
