"""Reads a work directory into records, for the report, for claims and for people's notebooks; free of jax.

Damaged or missing files become notes, never errors.
"""

import dataclasses
import datetime
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_FILES = ("config.json", "metrics.jsonl", "summary.json", "environment.json")
_HERE = "{here}"  # at the start of a path in config.json: the stage's directory
_NOT_STAGES = ("checkpoints", "completions", "tensorboard")
_NOT_IN_STEP = ("time/step", "time/eval")
_WITHOUT_CURVES = ("evaluate", "claims")
_WITHOUT_UPDATES = (*_WITHOUT_CURVES, "reject", "preferences")
_FAILURES = re.compile(r"(eval/)?rewards/[^/]+/(errors|timeouts)")
_OF_K_SAMPLES = re.compile(r"eval/(?:pass|cons)@([0-9]{1,9})")


class NotAWorkdirError(ValueError):
    """The path is no work directory; the message names it and says what is missing."""


@dataclasses.dataclass(frozen=True, order=True)
class Evaluation:
    """What kind of held-out evaluation a figure is from: figures of different kinds are no points of one curve."""

    is_full: bool  # the first or the last of a run, on more problems; else along the way
    samples: int  # of each problem; 0 if unknown

    def __str__(self) -> str:
        when = "first and last" if self.is_full else "along the way"
        return f"{when}, {self.samples} samples" if self.samples else when


@dataclasses.dataclass(frozen=True)
class Series:
    """One metric over a run: `steps` [n] ascending and unique, `values` [n] finite; both float64.

    Of a held-out metric `kinds` [n] says of which evaluation each value is; else it is empty.
    """

    steps: np.ndarray
    values: np.ndarray
    kinds: tuple[Evaluation, ...] = ()

    def by_kind(self) -> dict[Evaluation | None, "Series"]:
        """The series of each kind of evaluation, in order of samples; one under None for what is no held-out metric."""
        if not self.kinds:
            return {None: self}
        masks = {kind: [other == kind for other in self.kinds] for kind in sorted(set(self.kinds))}
        return {kind: Series(self.steps[mask], self.values[mask]) for kind, mask in masks.items()}

    @property
    def ends(self) -> tuple[float, float]:
        """The first and the last value, as they were logged."""
        return float(self.values[0]), float(self.values[-1])


class Points(NamedTuple):
    """Points [n] of a metric that belong together, with the edges of their band [n] where each has them."""

    kind: Evaluation | None  # None: of no evaluation
    series: Series
    low: np.ndarray | None
    high: np.ndarray | None
    is_points: bool  # no line joins them


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one stage's folder holds."""

    name: str  # folder name, for example "rl"
    kind: str  # "rl", "supervised", ...; "" if unknown
    path: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    summary: dict[str, Any]
    table: dict[str, Any]  # of a stage that made data: table.json
    claims: list[Any]  # of a stage that judged them: claims.json
    metrics: Mapping[str, Series]  # "time": seconds of running up to an update
    last_step: int  # of the last row; 0 if there is none
    last_time: str  # when the last row was written, local time; "" without rows
    wall_seconds: float  # nan if unknown
    done: bool  # the DONE marker is there
    notes: tuple[str, ...]  # what was damaged or left out, a sentence each

    @property
    def damaged(self) -> dict[str, str]:
        """File -> the note that says so."""
        return {name: note for name in _FILES for note in self.notes if note.startswith(name)}

    @property
    def seed(self) -> Any:
        """The stage's seed; None if none is recorded."""
        return self.summary.get("seed", self.config.get("seed"))

    @property
    def has_run(self) -> bool:
        """Whether there is more of it than its settings."""
        files = [self.path / name for name in ("summary.json", "claims.json", "table.json")]
        files += (self.path / "completions").glob("*.jsonl")
        return self.done or bool(self.last_time) or any(file.is_file() for file in files)

    def curves(self, metric: str, band: Sequence[str] = ()) -> list[Points]:
        """A metric by kinds of evaluation, in order of samples; one curve of what is no held-out metric.

        Between the first and the last evaluation others were made, or none: no line joins them. The edges of the band
        are in <metric>_low and <metric>_high, unless it names others.
        """
        names = band or (f"{metric}_low", f"{metric}_high")
        edges = [self.metrics[name].by_kind() for name in names if name in self.metrics]
        curves = []
        for kind, series in self.metrics[metric].by_kind().items():
            of_kind = [edge[kind] for edge in edges if kind in edge]
            limits = [edge.values for edge in of_kind if np.array_equal(edge.steps, series.steps)]
            low, high = limits if len(limits) == 2 else (None, None)
            is_single = self.is_evaluated_along_the_way or len(series.steps) <= 2
            curves.append(Points(kind, series, low, high, is_points=kind is not None and kind.is_full and is_single))
        return curves

    @property
    def is_evaluated_along_the_way(self) -> bool:
        """Whether there are held-out evaluations besides the first and the last."""
        return any(not kind.is_full for series in self.metrics.values() for kind in series.kinds)

    @property
    def origin(self) -> Path | None:
        """The folder of the policy that it starts from, as its config says; None without one."""
        path = dig(self.config, "init", "path")
        if not isinstance(path, str) or "\0" in path:
            return None
        return Path(path.replace(_HERE, str(self.path), 1) if path.startswith(_HERE) else path)

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

    Raises NotAWorkdirError if the path is missing, no folder, or holds no stage, or of several none that has run.
    """
    path = Path(workdir)
    if not path.is_dir():
        problem = " is a file, not a work directory" if path.exists() else ": there is no such folder"
        raise NotAWorkdirError(f"{path}{problem}")
    folders = [child for child in sorted(path.iterdir()) if child.name not in _NOT_STAGES and _is_stage(child)]
    if _is_stage(path) and (not folders or (path / "metrics.jsonl").exists()):
        return Run(path, tuple(_with_origins([read_stage(path)])))
    if not folders:
        raise NotAWorkdirError(
            f"{path} is no work directory: neither it nor a folder in it has metrics.jsonl, completions/, "
            "or the config.json of a stage"
        )
    stages = [read_stage(folder) for folder in sorted(folders, key=_started)]
    run = Run(path, tuple(_with_origins(stages)))
    if not any(stage.has_run for stage in run.stages):
        raise NotAWorkdirError(f"{path}: nothing has run yet of its stages {', '.join(s.name for s in stages)}")
    return run


def read_rows(
    path: Path, notes: list[str], limit: int | None = None, *, is_whole: bool = False
) -> list[dict[str, Any]]:
    """Reads up to `limit` JSON objects, one a line. Broken lines are left out and counted in `notes`.

    A last line without its end is what a run that was cut off leaves, so it is not worth a note, unless `is_whole`.
    """
    rows, broken = [], []
    if not path.is_file():
        return rows
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                row = _parse(line)
                if isinstance(row, dict):
                    rows.append(row)
                elif line.strip() and (is_whole or line.endswith("\n")):
                    broken.append(number)
                if limit is not None and len(rows) >= limit:
                    break
    except OSError as error:
        notes.append(f"{path.name} could not be read: {error.strerror}.")
    if broken:
        lines = "line" if len(broken) == 1 else "lines"
        notes.append(f"{path.name}: {len(broken)} unreadable {lines} left out (first: line {broken[0]}).")
    return rows


def read_json(path: Path, notes: list[str], kind: type = dict) -> Any:
    """Reads one JSON object, or list; an empty one if the file is missing, and with a note if it is broken."""
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
    """Whether a folder is a stage's: the config.json alone may be a model's."""
    if (path / "metrics.jsonl").is_file() or (path / "completions").is_dir():
        return True
    config = path / "config.json"
    return config.is_file() and ((path / "environment.json").is_file() or "stage" in read_json(config, []))


def _with_origins(stages: list[Stage]) -> list[Stage]:
    """Puts before each stage the one elsewhere that its config starts from (a base shared by runs), if it is there."""
    known = {stage.path.resolve() for stage in stages}
    result = []
    for stage in stages:
        origin = stage.origin
        if origin and _is_stage(origin) and origin.resolve() not in known:
            known.add(origin.resolve())
            result.append(read_stage(origin))
        result.append(stage)
    return result


def _started(path: Path) -> tuple[float, str]:
    files = [file for file in (path / "metrics.jsonl", path / "config.json") if file.is_file()]
    return min((file.stat().st_mtime for file in files), default=math.inf), path.name


def read_stage(path: Path) -> Stage:
    """Reads one stage's folder, whatever there is of it."""
    notes: list[str] = []
    done = (path / "DONE").exists()
    config = read_json(path / "config.json", notes)
    rows = read_rows(path / "metrics.jsonl", notes, is_whole=done)
    metrics = _metrics(rows, notes)
    environment = read_json(path / "environment.json", notes)
    summary = read_json(path / "summary.json", notes) if done else {}  # that of a run that goes on is of before
    kind = config.get("stage", "")
    written = datetime.datetime.fromtimestamp((path / "metrics.jsonl").stat().st_mtime) if rows else None
    return Stage(
        name=path.resolve().name,
        kind=kind if isinstance(kind, str) else "",
        path=path,
        config=config,
        environment=environment,
        summary=summary,
        table=read_json(path / "table.json", notes),
        claims=read_json(path / "claims.json", notes, list),
        metrics=metrics,
        last_step=int(max((series.steps[-1] for series in metrics.values()), default=0)),
        last_time=f"{written:%Y-%m-%d %H:%M:%S}" if written else "",
        wall_seconds=_wall_seconds(summary, rows),
        done=done,
        notes=tuple(notes),
    )


def _metrics(rows: list[dict[str, Any]], notes: list[str]) -> dict[str, Series]:
    values: dict[str, dict[float, float]] = {}
    kinds: dict[str, dict[float, Evaluation]] = {}
    lost: dict[str, list[int]] = {}
    for row in rows:
        step, kind = to_float(row.get("step")), _evaluation_of(row)
        for name, logged in row.items() if math.isfinite(step) else ():
            if name == "step" or isinstance(logged, bool) or not isinstance(logged, int | float | None):
                continue
            if not math.isfinite(value := to_float(logged)):
                lost.setdefault(name, []).append(int(step))
                continue
            if name.startswith("eval/"):
                of_steps = kinds.setdefault(name, {})
                if kind < of_steps.get(step, kind):
                    continue  # a full evaluation of the same policy says more
                of_steps[step] = kind
            points = values.setdefault(name, {})
            if name != "time" or step not in points:  # the time of an update, not of its evaluation
                points[step] = value
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
    metrics = {}
    for name, points in values.items():
        steps, logged = zip(*sorted(points.items()), strict=True)
        of_steps = tuple(kinds[name][step] for step in steps) if name in kinds else ()
        metrics[name] = Series(np.array(steps), np.array(logged), of_steps)
    return metrics


def _evaluation_of(row: dict[str, Any]) -> Evaluation:
    """The kind of an evaluation's row: its votes are of all samples, and those along the way are timed."""
    votes = [int(match[1]) for name in row if (match := _OF_K_SAMPLES.fullmatch(name))]
    return Evaluation(is_full="time/eval" not in row, samples=max((k for k in votes if k > 1), default=0))


def _add_other_time(values: dict[str, dict[float, float]]) -> None:
    """Adds time/other: what of time/step the named parts do not cover."""
    parts = [points for name, points in values.items() if name.startswith("time/") and name not in _NOT_IN_STEP]
    if parts and "time/step" in values and "time/other" not in values:
        whole = values["time/step"].items()
        values["time/other"] = {s: max(0.0, seconds - sum(part.get(s, 0.0) for part in parts)) for s, seconds in whole}


def to_float(value: Any) -> float:
    """`value` as a float; nan if it is no number, too large, or a bool."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def dig(tree: Any, *keys: str) -> Any:
    """What nested dicts hold at the end of `keys`; None where one of them is missing or there is no dict."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def with_limits(figures: Any, name: str) -> tuple[float, float, float]:
    """(value, low, high) of "<name>", "<name>_low" and "<name>_high" in a dict; nan where there is none."""
    value, low, high = (to_float(dig(figures, f"{name}{end}")) for end in ("", "_low", "_high"))
    return value, low, high


def _wall_seconds(summary: dict[str, Any], rows: list[dict[str, Any]]) -> float:
    """Seconds that a stage took: what its summary says, and while there is none, the time of its last row."""
    seconds = to_float(summary.get("wall_seconds"))
    times = [time for row in rows if math.isfinite(time := to_float(row.get("time")))]
    return seconds if math.isfinite(seconds) else max(times, default=math.nan)
