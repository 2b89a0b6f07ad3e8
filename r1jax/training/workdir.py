"""A work directory: what a stage was asked to do, where it ran, and whether it has finished.

    config.json        the stage's config, written once; a second start must bring the same
    environment.json   commit, versions, devices of the latest start
    summary.json       the stage's result, written when it is finished
    DONE               empty; present when the stage is finished

Every file is written beside its place and renamed into it, so none is ever half there.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers", "reasoning-gym")
_ENVIRONMENT_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
_ABSENT = "(absent)"


class WorkdirError(RuntimeError):
    """A work directory cannot be used; the message names it and says why."""


@dataclasses.dataclass(frozen=True)
class Workdir:
    """An open work directory."""

    path: Path

    def is_done(self) -> bool:
        """Whether the stage finished here."""
        return (self.path / "DONE").exists()

    def mark_done(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json, then DONE."""
        write_json(self.path / "summary.json", summary)
        write_text(self.path / "DONE", "")


def open_workdir(path: str | Path, config: Mapping[str, Any], *, need_bytes: int = 1 << 28) -> Workdir:
    """Makes or reopens a work directory; call it before anything is computed.

    Args:
      path: the directory; made, with its parents, where there is none.
      config: the stage's config as plain nested dicts that JSON can hold.
      need_bytes: free space that the run needs at the least (checkpoints above all).

    Raises WorkdirError where the path cannot be written, the disk is (nearly) full, or the directory is of another
    config (naming the keys that differ with both values); TypeError, naming the key, where JSON cannot hold a value.
    """
    path = Path(path).absolute()
    wanted = _to_json(config)
    try:
        path.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path).free
        if free < need_bytes:
            raise WorkdirError(
                f"{path}: {free / 1e6:.0f} MB free on its disk, the run needs at least {need_bytes / 1e6:.0f} MB"
            )
        if (path / "config.json").exists():
            _check_same_config(path, wanted)
        else:
            write_json(path / "config.json", wanted)
        write_json(path / "environment.json", describe_environment())
    except OSError as error:
        raise WorkdirError(f"{path}: cannot write the work directory: {error}") from error
    return Workdir(path)


def describe_environment() -> dict[str, Any]:
    """Commit, versions and devices, for environment.json; what is unknown is None."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    devices = jax.devices()
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": None if (status := _git("status", "--porcelain")) is None else bool(status),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "devices": {"kind": devices[0].device_kind, "platform": devices[0].platform, "count": len(devices)},
        "processes": jax.process_count(),
        "cpus": os.cpu_count(),
        "command": sys.argv,
        "variables": {name: os.environ[name] for name in _ENVIRONMENT_VARIABLES if name in os.environ},
    }


def write_json(path: Path, value: Any) -> None:
    """Writes an indented JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file, whole or not at all: beside its place, to the disk, then renamed."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _to_json(config: Mapping[str, Any]) -> Any:
    """The config as JSON gives it back (tuples become lists)."""
    for key, value in _flatten(config):
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(f"config key {key!r} cannot be written as JSON: {value!r} ({error})") from error
    return json.loads(json.dumps(dict(config)))


def _check_same_config(path: Path, wanted: Any) -> None:
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise WorkdirError(f"{path / 'config.json'} is damaged: {error}") from error
    if found == wanted:
        return
    there, here = dict(_flatten(found)), dict(_flatten(wanted))
    differing = [
        f"  {key}: {there.get(key, _ABSENT)!r} there, {here.get(key, _ABSENT)!r} now"
        for key in sorted(there.keys() | here.keys())
        if there.get(key, _ABSENT) != here.get(key, _ABSENT)
    ]
    raise WorkdirError(
        f"{path} holds a run of another config; choose another work directory or the same config:\n"
        + "\n".join(differing)
    )


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and (value or not prefix):
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _git(*arguments: str) -> str | None:
    """What git says of the checkout that this package lies in; None if it is none."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
