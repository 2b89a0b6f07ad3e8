"""Every completion of a page's runs, in files next to the page: an index to filter by, and the texts in chunks.

A page that is opened from disk may not fetch, but it may load scripts: each file calls one function with its data. The
files of texts are named after those that they come from, so that a page stays right while a run goes on.
"""

import json
import math
import re
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

from r1jax.report.markup import as_json, count_marked, write_whole
from r1jax.workdir.read import Stage, read_rows, step_of, to_float

_MAX_BYTES = 128 << 20  # of the files of completions of one page; of more every k-th is shown, and the last
_MAX_ROWS = 20_000  # a file; more are not looked at
_CHUNK_CHARACTERS = 1 << 20
_TITLE_CHARACTERS = 90
_COLUMNS = (
    "run",
    "split",
    "step",
    "problem",
    "reward",
    "correct",
    "length",
    "stop",
    "advantage",
    "words",
    "script",
    "flags",
)
_KEPT = ("completion", "rewards", "errors", "extra", "answer", "tokens", "logps")
_TAGS = re.compile(r"</?\w+>|\\[A-Za-z]+")  # of a template, and LaTeX: no language
_CHINESE, _LATIN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]"), re.compile("[A-Za-z]{2}")


class Numbers:
    """Numbers values in order of their first appearance."""

    def __init__(self):
        self.of: dict[Hashable, int] = {}

    def __call__(self, value: Hashable) -> int:
        return self.of.setdefault(value, len(self.of))


def write_completions(stages: Mapping[str, Stage], folder: Path) -> tuple[int, list[str]]:
    """Writes the completions of `stages` (label -> stage) to `folder`, and removes those of before.

    Returns their number, and what was left out, a sentence each. Without any there is no folder.
    """
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    problems, stops, notes = Numbers(), Numbers(), []
    titles: list[list[str]] = []
    starts: dict[str, int] = {}  # file -> its first completion
    stages = {label: stage for label, stage in stages.items() if _size(stage)}
    every = math.ceil(sum(map(_size, stages.values())) / _MAX_BYTES)
    for run, stage in enumerate(stages.values()):
        for split, path in _files(stage, notes, every=every):
            for part, rows in enumerate(_chunks(_valid(read_rows(path, notes, limit=_MAX_ROWS)))):
                name = f"{run}_{path.stem}_{part}.js"
                starts[name] = len(columns["run"])
                for row in rows:
                    problem = problems(_question(row))
                    titles += [_title(row)] if problem == len(titles) else []
                    values = _values(row) | {"run": run, "split": int(split == "train"), "step": step_of(path)}
                    values |= {"problem": problem, "stop": stops(str(row.get("stop_reason", "")))}
                    for column in _COLUMNS:
                        columns[column].append(values[column])
                folder.mkdir(exist_ok=True)
                write_whole(folder / name, f"chunk({as_json(name)}, {as_json(_texts(rows))});\n")
    if starts:
        about = [
            {"label": label, "weights": _weights(stage), "unit": "update" if stage.has_updates else "part"}
            for label, stage in stages.items()
        ]
        files = {"files": list(starts), "starts": list(starts.values())}
        index = {"runs": about, "titles": titles, "stops": list(stops.of), "columns": columns} | files
        write_whole(folder / "index.js", f"index({as_json(index)});\n")
    for path in folder.glob("*.js"):
        if path.name not in starts and not (starts and path.name == "index.js") and _is_ours(path):
            path.unlink()
    return len(columns["run"]), notes


def _is_ours(path: Path) -> bool:
    """Whether a script was written here: the folder may hold others."""
    with path.open("rb") as file:
        return file.read(6) in (b"chunk(", b"index(")


def _files(stage: Stage, notes: list[str], *, every: int) -> Iterator[tuple[str, Path]]:
    """(split, file) of the completions that are shown: every k-th file, and the last."""
    for split in ("heldout", "train"):
        files = stage.completion_files(split)
        shown = [path for i, path in enumerate(files) if i % every == 0 or i == len(files) - 1]
        if len(shown) < len(files):
            notes.append(f"{stage.name}: {len(shown)} of {len(files)} files of {split} completions are shown.")
        yield from ((split, path) for path in shown)


def _size(stage: Stage) -> int:
    return sum(path.stat().st_size for split in ("heldout", "train") for path in stage.completion_files(split))


def _valid(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if isinstance(row.get("completion"), str) and isinstance(row.get("problem"), dict)]


def _chunks(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    chunk, size = [], 0
    for row in rows:
        chunk.append(row)
        size += len(row["completion"])
        if size > _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _question(row: dict[str, Any]) -> tuple[str, str]:
    return str(row.get("prompt", "")), json.dumps(row["problem"], ensure_ascii=False, sort_keys=True)


def _texts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A chunk: completions, and the questions that they answer."""
    questions = Numbers()
    texts = [
        {"completion": "", "question": questions(_question(row))} | {key: row[key] for key in _KEPT if row.get(key)}
        for row in rows
    ]
    return {"rows": texts, "questions": list(questions.of)}


def _title(row: dict[str, Any]) -> list[str]:
    """Task, start of the question, and answer of a problem."""
    answer = row["problem"].get("answer")
    texts = (row["problem"].get("task", ""), row.get("prompt", ""), "" if answer is None else answer)
    return [str(text)[:_TITLE_CHARACTERS] for text in texts]


def _values(row: dict[str, Any]) -> dict[str, Any]:
    """What the list of completions is filtered and sorted by. Flags: 1 not trained on, 2 a reward failed."""
    text = _TAGS.sub("", row["completion"])
    failed = isinstance(row.get("errors"), dict) and bool(row["errors"])
    return {
        "reward": _number(row.get("reward")),
        "correct": _number(row.get("correct")),
        "length": _number(row.get("num_tokens")),
        "advantage": _number(row.get("advantage")),
        "words": count_marked(row["completion"]),
        "script": bool(_LATIN.search(text)) + 2 * bool(_CHINESE.search(text)),
        "flags": (row.get("dropped") is True) + 2 * failed,
    }


def _number(value: Any) -> float | int | None:
    number = float(value) if isinstance(value, bool) else to_float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and abs(number) < 1e15 else float(f"{number:.6g}")


def _weights(stage: Stage) -> dict[str, float]:
    """Reward -> weight, as the config says."""
    rewards = stage.config.get("rewards")
    weights = {}
    for reward in rewards if isinstance(rewards, list) else []:
        if isinstance(reward, dict) and math.isfinite(weight := to_float(reward.get("weight"))):
            weights[str(reward.get("name") or str(reward.get("function", "")).rpartition(":")[2])] = weight
    return weights
