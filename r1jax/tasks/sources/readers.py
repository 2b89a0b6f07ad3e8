"""Readers of single files: any row at once, by memory map, so that a file larger than memory can be read.

What is compressed as a whole (gzip, parquet) has no rows that can be read alone. It is unpacked once, piece by piece,
into an unnamed file in the temporary folder (``TMPDIR``), which is gone when the process ends. Only .json is held in
memory, and loaded on the spot: the format allows nothing else.
"""

import array
import csv
import gzip
import json
import mmap
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

_BATCH = 256


class Reader(Protocol):
    """One file: its number of rows (``len``) and any of them."""

    path: str

    def __len__(self) -> int: ...

    def read(self, index: int, fields: Sequence[str] | None) -> dict[str, Any]:
        """The row at ``index``; columnar files read only ``fields``, others may give more."""
        ...


def open_reader(path: Path, *, csv_header: Sequence[str] | None = None) -> Reader:
    """The reader for a file, by the ending of its name.

    Raises:
        ValueError: unknown ending, no such file, or a file that is not what its ending says.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith(".jsonl"):
            return JsonLines(path)
        if name.endswith(".json"):
            return Json(path)
        if name.endswith(".csv"):
            return Csv(path, header=csv_header)
        if path.name.endswith((".parquet", ".arrow")):
            return Arrow(path)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    raise ValueError(f"{path}: format not known by its ending; known are jsonl, json, csv (also .gz), parquet, arrow")


class JsonLines:
    """One JSON object a line; blank lines are no rows."""

    def __init__(self, path: Path):
        self.path = str(path)
        self._bytes = _mapped(path)
        self._spans = array.array("Q")  # begin and end of each row
        for start, end in _lines(self._bytes):
            if self._bytes[start:end].strip():
                self._spans.extend((start, end))

    def __len__(self) -> int:
        return len(self._spans) // 2

    def read(self, index: int, fields: Sequence[str] | None) -> dict[str, Any]:
        start, end = self._spans[2 * index], self._spans[2 * index + 1]
        try:
            value = json.loads(_decoded(self._bytes[start:end].rstrip()))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.path}, line {self._line(start)}{_what_is_wrong(error)}") from error
        return _checked(value, f"{self.path}, row {index + 1}")

    def _line(self, start: int) -> int:
        """The number of the line that begins at a byte; blank lines count, though they are no rows."""
        return self._bytes[:start].count(b"\n") + 1


class Json:
    """A list of objects, or an object of which exactly one value is such a list; held in memory."""

    def __init__(self, path: Path):
        self.path = str(path)
        try:
            content = json.loads(bytes(_mapped(path)))
        except ValueError as error:
            raise ValueError(f"{path}: no JSON: {error}") from error
        if isinstance(content, dict):
            lists = {key: value for key, value in content.items() if isinstance(value, list) and value}
            lists = {key: value for key, value in lists.items() if all(isinstance(item, dict) for item in value)}
            if len(lists) != 1:
                found = f"; it has {', '.join(lists)}" if lists else ""
                raise ValueError(f"{path}: must be a list of objects, or an object with one such list{found}")
            content = next(iter(lists.values()))
        self._rows: list[Any] = content if isinstance(content, list) else [content]

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int, fields: Sequence[str] | None) -> dict[str, Any]:
        return _checked(self._rows[index], f"{self.path}, row {index + 1}")


class Csv:
    """Comma-separated values in UTF-8, quoted as Excel does; all values are texts. Fields may span lines.

    Args:
        path: the file.
        header: names of the columns, where the file may come without a header line: it has one if its first value is
            the first name.
    """

    def __init__(self, path: Path, *, header: Sequence[str] | None = None):
        self.path = str(path)
        self._bytes = _mapped(path)
        self._starts = array.array("Q", [0])
        self._starts.extend(self._ends())
        first = self._record(0) if len(self._starts) > 1 else []
        has_header = header is None or first[:1] == [header[0]]
        self._names = first if has_header else list(header or ())
        self._first = int(has_header)

    def __len__(self) -> int:
        return len(self._starts) - 1 - self._first

    def read(self, index: int, fields: Sequence[str] | None) -> dict[str, Any]:
        values = self._record(index + self._first)
        if len(values) != len(self._names):
            raise ValueError(
                f"{self.path}, row {index + 1}: has {len(values)} values for {len(self._names)} columns "
                f"({', '.join(self._names)})"
            )
        return dict(zip(self._names, values, strict=True))

    def _record(self, index: int) -> list[str]:
        text = _decoded(self._bytes[self._starts[index] : self._starts[index + 1]])
        return next(csv.reader([text.lstrip("\r\n")], strict=True))

    def _ends(self) -> Iterator[int]:
        """Where each record ends; blank lines belong to the record after them."""
        place = 0

        def lines() -> Iterator[str]:
            nonlocal place
            for start, end in _lines(self._bytes):
                place = end
                yield _decoded(self._bytes[start:end])

        reader = csv.reader(lines(), strict=True)
        try:
            for values in reader:
                if values:
                    yield place
        except csv.Error as error:
            raise ValueError(f"{self.path}, line {reader.line_num}: {error}") from error


class Arrow:
    """Arrow files (stream or file form, as ``datasets`` writes them) by memory map; parquet by way of one."""

    def __init__(self, path: Path):
        import pyarrow
        from pyarrow import ipc

        self.path = str(path)
        try:
            mapped = _unpacked_parquet(path) if path.name.endswith(".parquet") else _mapped(path)
            buffer = pyarrow.py_buffer(mapped)
            is_file = mapped[:6] == b"ARROW1"
            table = ipc.open_file(buffer).read_all() if is_file else ipc.open_stream(buffer).read_all()
        except pyarrow.ArrowException as error:
            raise ValueError(f"{path}: cannot be read: {error}") from error
        self._table = table  # views of the map, nothing copied
        self._names = set(table.column_names)

    def __len__(self) -> int:
        return self._table.num_rows

    def read(self, index: int, fields: Sequence[str] | None) -> dict[str, Any]:
        table = self._table
        if fields is not None:
            table = table.select([name for name in table.column_names if name in set(fields)])
        rows = table.slice(index, 1).to_pylist()
        return rows[0] if rows else {}


def _unpacked_parquet(path: Path) -> mmap.mmap | bytes:
    import pyarrow
    from pyarrow import ipc, parquet

    with parquet.ParquetFile(path) as source, tempfile.TemporaryFile() as file:
        with ipc.new_stream(file, source.schema_arrow) as writer:
            for group in range(source.num_row_groups):
                for batch in source.iter_batches(batch_size=_BATCH, row_groups=[group], use_threads=False):
                    writer.write_batch(batch)
        pyarrow.default_memory_pool().release_unused()
        return _map(file)


def _mapped(path: Path) -> mmap.mmap | bytes:
    """The bytes of a file, unpacked if its name ends in .gz."""
    if path.name.endswith(".gz"):
        with gzip.open(path) as packed, tempfile.TemporaryFile() as file:
            shutil.copyfileobj(packed, file)
            return _map(file)
    with path.open("rb") as file:
        return _map(file)


def _map(file: BinaryIO | Any) -> mmap.mmap | bytes:
    file.flush()
    file.seek(0, 2)
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.tell() else b""


def _lines(content: mmap.mmap | bytes) -> Iterator[tuple[int, int]]:
    r"""Begin and end of each line, with its "\n"."""
    start, length = 0, len(content)
    while start < length:
        end = content.find(b"\n", start) + 1 or length
        yield start, end
        start = end


def _decoded(content: bytes) -> str:
    return content.decode("utf-8-sig")


def _what_is_wrong(error: Exception) -> str:
    """The column, where it is known, and what is wrong there with a line of JSON."""
    match error:
        case json.JSONDecodeError():
            return f", column {error.colno}: no JSON: {error.msg}"
        case UnicodeDecodeError():
            return f", byte {error.start + 1}: no JSON: not in utf-8 ({error.reason})"
    return f": no JSON: {error}"


def _checked(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: must be a JSON object; it is a {type(value).__name__}")
    return value
