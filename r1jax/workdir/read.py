"""Reads a work directory into records. Damaged or missing files become notes, never errors."""

import dataclasses
import datetime
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

_STAGE_FILES = ("metrics.jsonl", "config.json")
_NOT_STAGES = ("checkpoints", "completions", "tensorboard")
_NOT_IN_STEP = ("time/step", "time/eval")
_WITHOUT_CURVES = ("evaluate", "claims")
_WITHOUT_UPDATES = (*_WITHOUT_CURVES, "reject", "preferences")
_FAILURES = re.compile(r"(eval/)?rewards/[^/]+/(errors|timeouts)")
_Container = TypeVar("_Container", dict, list)
_EPOCH_SECONDS = 1e9  # a "time" above this counts from 1970, below it from the start of the run


class NotAWorkdirError(ValueError):
    """The path is no work directory; the message names it and says what is missing."""


@dataclasses.dataclass(frozen=True)
class Series:
    """One metric over a run: `steps` [n] ascending and unique, `values` [n] finite; both float64."""

    steps: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one stage's folder holds."""

    name: str  # folder name, for example "rl"
    kind: str  # "rl", "supervised", ...; "" if unknown
    path: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    summary: dict[str, Any]
    metrics: Mapping[str, Series]
    last_step: int  # of the last row; 0 if there is none
    last_time: str  # when the last row was written, local time; "" without rows
    wall_seconds: float  # nan if unknown
    done: bool  # the DONE marker is there
    notes: tuple[str, ...]  # what was damaged or left out, a sentence each

    @property
    def is_rl(self) -> bool:
        """Whether this stage learns from rewards."""
        return self.kind == "rl" or "reward" in self.metrics

    @property
    def has_updates(self) -> bool:
        """Whether the steps of its rows are updates of a model; of other stages they are batches, or tasks."""
        return self.kind not in _WITHOUT_UPDATES

    @property
    def has_curves(self) -> bool:
        """Whether its rows are points of curves; an evaluation's are its tasks."""
        return self.kind not in _WITHOUT_CURVES

    def completion_files(self, split: str) -> list[Path]:
        """Files of `split` ("train" or "heldout") by update, oldest first."""
        prefix = "heldout" if split == "heldout" else "update"
        files = [path for path in (self.path / "completions").glob(f"{prefix}_*.jsonl") if step_of(path) >= 0]
        return sorted(files, key=step_of)


@dataclasses.dataclass(frozen=True)
class Run:
    """A work directory: its stages in order, each after the stage elsewhere that it started from."""

    path: Path
    stages: tuple[Stage, ...]


def step_of(path: Path) -> int:
    """The update in a name like update_000012.jsonl; -1 if there is none."""
    digits = path.stem.rpartition("_")[2]
    return int(digits) if digits.isascii() and digits.isdigit() else -1


def read_run(workdir: str | Path) -> Run:
    """Reads a work directory: either a stage itself or a folder of stages.

    Raises NotAWorkdirError if the path is missing, no folder, or holds no stage.
    """
    path = Path(workdir)
    if not path.exists():
        raise NotAWorkdirError(f"{path}: there is no such folder")
    if not path.is_dir():
        raise NotAWorkdirError(f"{path} is a file, not a work directory")
    folders = [child for child in sorted(path.iterdir()) if child.name not in _NOT_STAGES and _is_stage(child)]
    if _is_stage(path) and (not folders or (path / "metrics.jsonl").exists()):
        return Run(path, tuple(_with_origins([_read_stage(path)])))
    if not folders:
        raise NotAWorkdirError(
            f"{path} is no work directory: neither it nor a folder in it has any of "
            f"{', '.join(_STAGE_FILES)} or completions/"
        )
    stages = [_read_stage(folder) for folder in sorted(folders, key=lambda folder: (_started(folder), folder.name))]
    return Run(path, tuple(_with_origins(stages)))


def read_rows(path: Path, notes: list[str], limit: int | None = None) -> list[dict[str, Any]]:
    """Reads up to `limit` JSON objects, one a line. Broken lines are left out and counted in `notes`.

    A broken last line is what a run that was cut off leaves, so it is not worth a note.
    """
    rows, broken = [], 0
    if not path.is_file():
        return rows
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
            bad = False
            for line in lines:
                broken += bad
                bad = False
                row = _parse(line)
                if isinstance(row, dict):
                    rows.append(row)
                elif line.strip():
                    bad = True
                if limit is not None and len(rows) >= limit:
                    break
            broken += bad and line.endswith("\n")
    except OSError as error:
        notes.append(f"{path.name} could not be read: {error.strerror}.")
    if broken:
        notes.append(f"{path.name}: {broken} unreadable {'line' if broken == 1 else 'lines'} left out.")
    return rows


def read_json(path: Path, notes: list[str]) -> dict[str, Any]:
    """Reads one JSON object; {} if the file is missing, and {} with a note if it is broken."""
    return _read_as(dict, path, notes)


def read_list(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Reads a JSON list of objects, others left out; [] if the file is missing, and [] with a note if it is broken."""
    return [row for row in _read_as(list, path, notes) if isinstance(row, dict)]


def _read_as(kind: type[_Container], path: Path, notes: list[str]) -> _Container:
    if not path.is_file():
        return kind()
    try:
        value = _parse(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        value = None
    if isinstance(value, kind):
        return value
    notes.append(f"{path.name} is empty or damaged and was left out.")
    return kind()


def flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, leaf) of nested dicts; lists stay leaves unless they hold dicts."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        for index, item in enumerate(tree):
            yield from flatten(item, f"{prefix}[{index}]")
    else:
        yield prefix, tree


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_stage(path: Path) -> bool:
    return path.is_dir() and (any((path / name).is_file() for name in _STAGE_FILES) or (path / "completions").is_dir())


def _with_origins(stages: list[Stage]) -> list[Stage]:
    """Puts before each stage the one elsewhere that its config starts from (a base shared by runs), if it is there."""
    known = {stage.path.resolve() for stage in stages}
    result = []
    for stage in stages:
        init = stage.config.get("init")
        path = init.get("path") if isinstance(init, dict) and init.get("kind") == "stage" else None
        if isinstance(path, str) and "\0" not in path:
            origin = Path(path.replace("{here}", str(stage.path), 1))
            if _is_stage(origin) and origin.resolve() not in known:
                known.add(origin.resolve())
                result.append(_read_stage(origin))
        result.append(stage)
    return result


def _started(path: Path) -> float:
    return min((file.stat().st_mtime for name in _STAGE_FILES if (file := path / name).is_file()), default=math.inf)


def _read_stage(path: Path) -> Stage:
    notes: list[str] = []
    config = read_json(path / "config.json", notes)
    file = path / "metrics.jsonl"
    rows = read_rows(file, notes)
    metrics = _metrics(rows, notes)
    kind = config.get("stage", "")
    written = datetime.datetime.fromtimestamp(file.stat().st_mtime) if rows else None
    summary = read_json(path / "summary.json", notes)
    return Stage(
        name=path.resolve().name,
        kind=kind if isinstance(kind, str) else "",
        path=path,
        config=config,
        environment=read_json(path / "environment.json", notes),
        summary=summary,
        metrics=metrics,
        last_step=int(max((series.steps[-1] for series in metrics.values()), default=0)),
        last_time=f"{written:%Y-%m-%d %H:%M:%S}" if written else "",
        wall_seconds=_wall_seconds(summary, rows),
        done=(path / "DONE").exists(),
        notes=tuple(notes),
    )


def _metrics(rows: list[dict[str, Any]], notes: list[str]) -> dict[str, Series]:
    values: dict[str, dict[float, float]] = {}
    lost: dict[str, list[int]] = {}
    for row in rows:
        step = number(row.get("step"))
        if not math.isfinite(step):
            continue
        for name, value in row.items():
            if name in ("step", "time") or isinstance(value, bool) or not isinstance(value, int | float | None):
                continue
            value = number(value)
            if math.isfinite(value):
                values.setdefault(name, {})[step] = value
            else:
                lost.setdefault(name, []).append(int(step))
    for name, steps in sorted(lost.items()):
        notes.append(f"{name}: {len(steps)} non-finite or too large, left out (first at update {steps[0]}).")
    for name, points in sorted(values.items()):
        if not _FAILURES.fullmatch(name):
            continue
        if not (count := sum(points.values())):
            del values[name]  # no failures are not worth a plot
        elif name.endswith("/errors"):
            first = min(step for step, failures in points.items() if failures)
            notes.append(
                f"Warning: {name}: the verifier failed on {count:,.0f} completions, first at update {first:,.0f}; "
                "they count as neither right nor wrong."
            )
    _add_other_time(values)
    return {
        name: Series(np.array(sorted(points)), np.array([points[step] for step in sorted(points)]))
        for name, points in values.items()
    }


def _add_other_time(values: dict[str, dict[float, float]]) -> None:
    """Adds time/other: what of time/step the named parts do not cover."""
    parts = [points for name, points in values.items() if name.startswith("time/") and name not in _NOT_IN_STEP]
    if parts and "time/step" in values and "time/other" not in values:
        steps = values["time/step"].items()
        values["time/other"] = {
            step: max(0.0, whole - sum(part.get(step, 0.0) for part in parts)) for step, whole in steps
        }


def number(value: Any) -> float:
    """`value` as a float; nan if it is no number, too large, or a bool."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _wall_seconds(summary: dict[str, Any], rows: list[dict[str, Any]]) -> float:
    seconds = number(summary.get("wall_seconds"))
    if math.isfinite(seconds):
        return seconds
    times = [time for row in rows if math.isfinite(time := number(row.get("time")))]
    if not times:
        return math.nan
    return max(times) - min(times) if min(times) > _EPOCH_SECONDS else max(times)
