"""A work directory: what a stage was asked to do, where it ran, and whether it has finished.

    config.json        the stage's config, written once; a second start must bring the same
    environment.json   commit, versions, devices, digests of the code that the config names, of the latest start
    summary.json       the stage's result, written when it is finished
    DONE               empty; present when the stage is finished
    LOCK               who writes here, or was the last to

Every file but LOCK is written beside its place and renamed into it, so none is ever half there. In the strings of a
config "{here}/" at the start stands for the work directory itself: so written, a path survives that the directory is
moved together with what it points to.

LOCK is held by flock, which the kernel lets go of when its process ends in whatever way. NFS passes it on to its server
(not where it is mounted with nolock or local_lock); a file system that knows no locks gets a warning and no protection.

Of a run of several processes the first one locks and writes, and the others wait for it and fail if it does; all of them
must see the directory, for checkpoints are written by all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
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

from r1jax.processes import on_first
from r1jax.workdir.code_digest import code_digests

MARGIN_BYTES = 1 << 26
"""Free space beyond the checkpoints: metrics, completions, TensorBoard."""
_HERE = "{here}/"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers", "reasoning-gym")
_ENVIRONMENT_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
_ABSENT = "(absent)"


class WorkdirError(RuntimeError):
    """A work directory cannot be used; the message names it and says why."""


@dataclasses.dataclass(frozen=True)
class Workdir:
    """An open work directory."""

    path: Path

    def require_space(self, num_bytes: int) -> None:
        """Raises WorkdirError unless its disk has `num_bytes` and MARGIN_BYTES free; call it before anything is computed."""
        on_first(lambda: _require_space(self.path, num_bytes))

    def mark_done(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json, then DONE."""

        def write() -> None:
            write_json(self.path / "summary.json", summary)
            write_text(self.path / "DONE", "")

        on_first(write)


@contextlib.contextmanager
def open_workdir(path: str | Path, config: Mapping[str, Any]) -> Iterator[Workdir]:
    """Makes or reopens a work directory and keeps it locked while the context lasts.

    Args:
      path: the directory; made, with its parents, where there is none.
      config: the stage's config as plain nested dicts that JSON can hold.

    Raises WorkdirError where the path cannot be written, the disk is (nearly) full, another process works there (naming
    it), or the directory is of another config (naming the keys that differ with both values); TypeError, naming the
    key, where JSON cannot hold a value.
    """
    path = Path(path).absolute()
    wanted = _to_json(config)
    with contextlib.ExitStack() as held:

        def begin() -> None:
            try:
                path.mkdir(parents=True, exist_ok=True)
                held.enter_context(_locked(path))
                _require_space(path, 0)
                if (path / "config.json").exists():
                    check_same_config(path, wanted)
                else:
                    write_json(path / "config.json", wanted)
                write_json(path / "environment.json", describe_environment() | {"code": code_digests(wanted)})
            except OSError as error:
                raise WorkdirError(f"{path}: cannot write the work directory: {error}") from error

        on_first(begin)
        yield Workdir(path)


def read_summary(path: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The summary of a stage with this config that has finished in the directory; None if it has still to run."""
    if not (path / "DONE").exists() or _read(path / "config.json", at=path) != from_here(_to_json(config), path):
        return None
    return _read(path / "summary.json", at=path)


def changed_code(path: Path, config: Mapping[str, Any]) -> list[str]:
    """The modules and functions that the config names whose source is not what it was at the directory's latest start."""
    environment = _read(path / "environment.json", at=path)
    before = environment.get("code", {}) if isinstance(environment, dict) else {}
    return [name for name, digest in code_digests(config).items() if before.get(name, digest) != digest]


def from_here(value: Any, path: Path) -> Any:
    """`value` with "{here}/" at the start of every string made the absolute path of what lies there."""
    if isinstance(value, Mapping):
        return {key: from_here(child, path) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(from_here(child, path) for child in value)
    if isinstance(value, str) and value.startswith(_HERE):
        return os.path.normpath(path / value.removeprefix(_HERE))
    return value


def to_here(target: Path, path: Path) -> str:
    """The string that `from_here` at `path` turns into `target`; both absolute."""
    return _HERE + os.path.relpath(target, path)


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


def read_lines(path: Path) -> list[bytes]:
    """The lines of a file that is appended to, without their ends; [] of none. A last line without its end is left out.

    They are bytes, split at line feeds alone: a text may hold other characters that `str.splitlines` ends a line at, and
    a line that was cut off while it was written may end inside of a character.
    """
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def _to_json(config: Mapping[str, Any]) -> Any:
    """The config as JSON gives it back (tuples become lists)."""
    for key, value in _flatten(config):
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(f"config key {key!r} cannot be written as JSON: {value!r} ({error})") from error
    return json.loads(json.dumps(dict(config)))


def _read(path: Path, *, at: Path) -> Any:
    """What a JSON file of the work directory holds; None if there is none or it is damaged."""
    try:
        return from_here(json.loads(path.read_text(encoding="utf-8")), at)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _require_space(path: Path, num_bytes: int) -> None:
    free, needed = shutil.disk_usage(path).free, num_bytes + MARGIN_BYTES
    if free < needed:
        raise WorkdirError(f"{path}: needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free on its disk")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds LOCK."""
    with (path / "LOCK").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise WorkdirError(
                f"{path} is in use by {file.read().strip() or 'another process'}; "
                "start again when that has ended, or choose another work directory"
            ) from None
        except OSError as error:
            print(f"warning: {path} cannot be locked ({error}); start no second run there", file=sys.stderr, flush=True)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def check_same_config(path: Path, config: Mapping[str, Any]) -> None:
    """Raises WorkdirError, naming the keys that differ with both values, if a directory's config.json is another config."""
    found = _read(path / "config.json", at=path)
    wanted = from_here(_to_json(config), path)
    if found is None:
        raise WorkdirError(f"{path / 'config.json'} is damaged")
    if found == wanted:
        return
    there, here = dict(_flatten(found)), dict(_flatten(wanted))
    differing = [
        f"  {key}: {there.get(key, _ABSENT)!r} there, {here.get(key, _ABSENT)!r} now"
        for key in sorted(there.keys() | here.keys())
        if there.get(key, _ABSENT) != here.get(key, _ABSENT)
    ]
    raise WorkdirError(
        f"{path} holds a run of another config; choose another work directory or the same config "
        "(a {hash} also changes with the code that a config names):\n" + "\n".join(differing)
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
