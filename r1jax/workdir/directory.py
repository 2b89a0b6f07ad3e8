"""A work directory: what a stage was asked to do, where it ran, and whether it has finished.

README.md lists its files. Every one but LOCK and changes.jsonl is written under another name and then renamed, so none
is ever half there. A text of config.json that begins with "{here}/" stands for a path from the work directory: so are
written the paths inside of it, those inside of the run that it is a stage of, and those of other stages, which all can
be moved together.

What is learned is kept apart from how it is run (fields declared with how=True: meshes, micro-batches, cadences,
workers). Where a directory holds results, a start with another spec

    differs in `how` fields only   goes on; config.json is rewritten and changes.jsonl gets a line
    has more updates or epochs     goes on from the last checkpoint, also where the run was DONE: it is no longer
    has fewer than are done        is refused
    differs in anything else       is refused with a diff

and a field that config.json lacks counts as its default. A directory holds results if it has DONE, a folder
checkpoints/<number>, a file in parts/, a line in verdicts.jsonl, or a row in metrics.jsonl and no checkpoints/ (the
rows of a stage that saves checkpoints count only with one). Else a start with another spec takes it over and clears
what is there.

LOCK is held by flock, which the kernel lets go of when its process ends in whatever way. NFS passes it on to its server
(not where it is mounted with nolock or local_lock); a file system that knows no locks gets a warning and no protection.

Of a run of several processes the first one locks and writes, and the others wait for it and fail if it does; all of
them must see the directory, for checkpoints are written by all.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from r1jax.processes import on_first
from r1jax.specs.fields import leaves, to_plain
from r1jax.specs.reader import HERE, SpecError, read
from r1jax.workdir.read import read_json

MARGIN_BYTES = 1 << 26
"""Free space beyond the checkpoints: metrics, completions, TensorBoard."""
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers", "reasoning-gym")
_ENVIRONMENT_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
_FUNCTION = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")
_ABSENT = "(absent)"
_OF_A_RUN = (
    *("lineage.json", "changes.jsonl", "metrics.jsonl", "best.json", "summary.json", "error.txt", "verdicts.jsonl"),
    *("loggers.json", "model.json", "report.html"),
    *("checkpoints", "completions", "parts", "report_data", "tensorboard", "tokenizer"),
)
"""What is cleared when another spec takes over a directory without results."""


class WorkdirError(RuntimeError):
    """A work directory cannot be used; the message names it and says why."""


def require_space(path: Path, num_bytes: int) -> None:
    """Raises WorkdirError unless the disk has `num_bytes` and MARGIN_BYTES free; call it before anything is computed."""
    on_first(lambda: _require_space(path, num_bytes))


def mark_done(path: Path, summary: Mapping[str, Any]) -> None:
    """Writes summary.json, then DONE."""

    def write() -> None:
        write_json(path / "summary.json", summary)
        write_text(path / "DONE", "")

    on_first(write)


@contextlib.contextmanager
def open_workdir(path: str | Path, spec: Any) -> Iterator[Path]:
    """Makes or reopens a work directory and keeps it locked while the context lasts; gives its absolute path.

    Args:
      path: the directory; made, with its parents, where there is none.
      spec: the stage's spec, a frozen dataclass.

    Raises WorkdirError where the path cannot be written, the disk is (nearly) full, another process works there (naming
    it), or the directory holds results of another spec (naming the keys that differ with both values; see the module);
    TypeError, naming the key, where JSON cannot hold a value.
    """
    path = Path(path).absolute()
    plain = inside_to_here(_to_json(spec), path, root=path)
    with contextlib.ExitStack() as held:

        def begin() -> None:
            try:
                path.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(path))
                _require_space(path, 0)
                if holds_results(path) and (edited := changed_code(path, spec)):
                    _record_change(path, {"code": edited})
                _write_config(path, spec, plain)
                write_json(path / "environment.json", describe_environment() | {"code": code_digests(spec)})
            except OSError as error:
                raise WorkdirError(f"{path}: cannot write the work directory: {error}") from error

        on_first(begin)
        yield path


def check_workdir(path: Path, spec: Any) -> None:
    """Raises WorkdirError for a directory that a run of the spec cannot begin or go on in; writes nothing."""
    if not (path / "config.json").exists():
        if holds_results(path):
            raise WorkdirError(
                f"{path} holds results and no config.json that says of what; choose another work directory"
            )
    elif holds_results(path):
        check_same_config(path, spec)
    elif not (path / "environment.json").exists():
        raise WorkdirError(f"{path} holds a config.json that is not of a run; choose another work directory")


def _write_config(path: Path, spec: Any, plain: dict[str, Any]) -> None:
    """Writes config.json where there is none, takes over a directory without results, or goes on with other settings."""
    check_workdir(path, spec)
    if (path / "config.json").exists():
        how, others = _differences(path, spec)
        if not how and not others:
            return
        if holds_results(path):
            is_extended = check_same_config(path, spec)
            _record_change(path, {"changes": how})
            words = ", ".join(f"{key} {_shown(before)} -> {_shown(after)}" for key, (before, after) in how.items())
            print(f"{path.name} goes on with other settings: {words}", flush=True)
            if is_extended:
                if getattr(getattr(spec, "optimizer", None), "schedule", None) == "cosine":
                    print(f"warning: {path.name}: the cosine is that of the longer run now, so the learning rate jumps")
                (path / "DONE").unlink(missing_ok=True)
        else:
            for file in (path / name for name in _OF_A_RUN):
                if file.is_dir():
                    shutil.rmtree(file)
                file.unlink(missing_ok=True)
    write_json(path / "config.json", plain)


def _record_change(path: Path, change: Mapping[str, Any]) -> None:
    """Appends to changes.jsonl what is other from now on, and after which update."""
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    with (path / "changes.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"update": updates_done(path), "time": now, **change}) + "\n")


def holds_results(path: Path) -> bool:
    """Whether a start with another spec would lose anything; the rule is in the module's docstring."""
    rows = ["verdicts.jsonl"] if (path / "checkpoints").is_dir() else ["verdicts.jsonl", "metrics.jsonl"]
    return (
        (path / "DONE").exists()
        or updates_done(path) is not None
        or any((path / "parts").glob("*"))
        or any(read_lines(path / name) for name in rows)
    )


def updates_done(path: Path) -> int | None:
    """The number of updates of a directory's latest checkpoint; None without one."""
    steps = [int(folder.name) for folder in (path / "checkpoints").glob("*") if folder.name.isdecimal()]
    return max(steps, default=None)


def read_summary(path: Path, spec: Any) -> dict[str, Any] | None:
    """The summary of a stage of this spec that has finished in the directory; None if it has still to run, or to go on.

    The spec may differ in `how` fields, but for the number of updates or epochs.
    """
    if not (path / "DONE").exists():
        return None
    try:
        is_longer = check_same_config(path, spec)
    except WorkdirError:
        return None
    return None if is_longer else read_json(path / "summary.json", []) or None


def code_digests(spec: Any) -> dict[str, str]:
    """Digest of each module that a "module:function" text anywhere in a spec (or in dicts and lists) names.

    The key is the module. Where it has no file (a notebook's __main__) the key is the whole string and the digest that
    of the function's source. What has no source at all is left out; so is what those modules import.
    """
    sources: dict[str, bytes] = {}
    for name in sorted({text for _, text, _, _ in leaves(spec) if isinstance(text, str) and _FUNCTION.fullmatch(text)}):
        module, _, function = name.partition(":")
        # Packages above it are code of others: whoever calls the function says what is wrong with them.
        with contextlib.suppress(Exception):
            if (found := importlib.util.find_spec(module)) and found.origin:
                sources[module] = Path(found.origin).read_bytes()
        if module not in sources:
            with contextlib.suppress(AttributeError, OSError, TypeError):
                sources[name] = inspect.getsource(getattr(sys.modules.get(module), function)).encode()
    return {name: hashlib.sha256(source).hexdigest()[:16] for name, source in sources.items()}


def changed_code(path: Path, spec: Any) -> list[str]:
    """The modules and functions that the spec names whose source is not what it was at the directory's latest start."""
    before = read_json(path / "environment.json", []).get("code", {})
    return [name for name, digest in code_digests(spec).items() if before.get(name, digest) != digest]


def from_here(value: Any, path: Path) -> Any:
    """`value` with "{here}/" at the start of every text made the absolute path of what lies there."""
    return _map_texts(
        lambda text: os.path.normpath(path / text.removeprefix(HERE)) if text.startswith(HERE) else text, value
    )


def to_here(target: Path, path: Path) -> str:
    """The text that `from_here` at `path` turns into `target`; both absolute."""
    return HERE + os.path.relpath(target, path)


def inside_to_here(value: Any, path: Path, *, root: Path) -> Any:
    """`value` with every text that is a path inside of `root`, which is moved as a whole, written as `to_here` at `path` does."""
    return _map_texts(lambda text: to_here(Path(text), path) if Path(text).is_relative_to(root) else text, value)


def _map_texts(function: Callable[[str], str], value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _map_texts(function, child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_map_texts(function, child) for child in value)
    return function(value) if isinstance(value, str) else value


def describe_environment() -> dict[str, Any]:
    """Commit, versions and devices, for environment.json; what is unknown is None."""
    versions: dict[str, str | None] = dict.fromkeys(_PACKAGES)
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
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
    """Writes a file, whole or not at all: next to its place, to the disk, then renamed."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_lines(path: Path) -> list[bytes]:
    """The lines of a file that is appended to, without their ends; [] of none. A last line without its end is left out.

    They are bytes, split at line feeds alone: a text may hold other characters that `str.splitlines` ends a line at,
    and a line that was cut off while it was written may end inside of a character.
    """
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def _to_json(spec: Any) -> dict[str, Any]:
    """The spec as JSON gives it back."""
    for key, value, _, _ in leaves(spec):
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(f"config key {key!r} cannot be written as JSON: {value!r} ({error})") from error
    return to_plain(spec)


def _require_space(path: Path, num_bytes: int) -> None:
    free, needed = shutil.disk_usage(path).free, num_bytes + MARGIN_BYTES
    if free < needed:
        raise WorkdirError(f"{path}: needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free on its disk")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
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


def _differences(path: Path, spec: Any) -> tuple[dict[str, list], dict[str, list]]:
    """Dotted key -> [value there, value now], of `how` fields and of others. Raises WorkdirError if config.json is damaged."""
    notes: list[str] = []
    there = from_here(read_json(path / "config.json", notes), path)
    if notes:
        raise WorkdirError(f"{path / 'config.json'} is damaged")
    pairs: dict[str, list] = {}
    how_keys = set()
    for side, values in enumerate((there, from_here(to_plain(spec), path))):
        with contextlib.suppress(SpecError):  # of an older version, or another stage
            values = read(type(spec), values)  # fills in defaults, and says of each leaf what it is
        for key, leaf, is_how, _ in leaves(values):
            pairs.setdefault(key, [_ABSENT, _ABSENT])[side] = to_plain(leaf)
            how_keys |= {key} if is_how else set()
    changed = {key: pair for key, pair in sorted(pairs.items()) if pair[0] != pair[1]}
    for key, pair in list(changed.items()):  # {} on one side, on the other keys that are all `how`: those say it
        below = {other for other in changed if other.startswith(f"{key}.")}
        if below and below <= how_keys and {} in pair:
            del changed[key]
    how = {key: changed.pop(key) for key in list(changed) if key in how_keys}
    return how, changed


def check_same_config(path: Path, spec: Any) -> dict[str, list]:
    """What makes a directory's run longer with the spec, as key -> [value there, value now]; {} where it does not.

    Raises WorkdirError if it cannot go on with it, naming the keys that differ with both values.
    """
    how, others = _differences(path, spec)
    if others:
        lines = [f"  {key}: {_shown(before)} there, {_shown(after)} now" for key, (before, after) in others.items()]
        raise WorkdirError(
            f"{path} holds a run of another config; choose another work directory or the same config "
            "(a {hash} also changes with the code that a config names):\n" + "\n".join(lines)
        )
    _, updates = how.get("num_updates", (None, None))
    before, epochs = how.get("num_epochs", (None, None))
    done = updates_done(path)
    if updates is not None and updates < (done or 0):
        raise WorkdirError(f"{path}: num_updates={updates} is fewer than the {done} that are done")
    if epochs is not None and (before is None or epochs < before):
        words = "cannot follow num_updates" if before is None else f"is fewer than the {before} that it was begun with"
        raise WorkdirError(f"{path}: num_epochs={epochs} {words}")
    is_longer = epochs is not None or (updates is not None and updates != done)
    if is_longer and done is None and (path / "DONE").exists():
        raise WorkdirError(f"{path}: the run is done and its checkpoints are gone, so it cannot be made longer")
    return {key: how[key] for key in ("num_updates", "num_epochs") if key in how} if is_longer else {}


def _shown(value: Any) -> str:
    return value if value is _ABSENT else repr(value)


def _git(*arguments: str) -> str | None:
    """What git says of the checkout that this package lies in; None if it is none."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
