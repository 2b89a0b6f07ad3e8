"""Readers of single files: any row at once, by memory map, so that a file larger than memory can be read.

What has no rows that can be read alone (gzip, zip, parquet, CSV with its rows of several lines, JSON) is unpacked once,
piece by piece, into an unnamed file in the temporary folder (``TMPDIR``), which is gone when the process ends. Only
.json is loaded whole for it: the format allows nothing else.
"""

import array
import csv
import gzip
import json
import mmap
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

_BATCH = 256


class JsonLines:
    """One JSON object a line of ``content``; blank lines are no rows."""

    def __init__(self, path: Path, content: mmap.mmap | bytes):
        self.path, self._bytes = str(path), content
        self._spans = array.array("Q")  # begin, end and number of each row's line
        start, number = 0, 1
        while start < len(content):
            end = content.find(b"\n", start) + 1 or len(content)
            if content[start:end].strip():
                self._spans.extend((start, end, number))
            start, number = end, number + 1

    def __len__(self) -> int:
        return len(self._spans) // 3

    def read(self, index: int) -> dict[str, Any]:
        """The row at ``index``."""
        start, end, number = self._spans[3 * index : 3 * index + 3]
        line = self._bytes[start:end]
        try:
            value = json.loads(line.rstrip().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            where, what = f"line {number}", str(error)
            if isinstance(error, json.JSONDecodeError):
                where, what = f"{where}, column {error.colno}", error.msg
            elif isinstance(error, UnicodeDecodeError):
                where, what = f"{where}, byte {error.start + 1}", f"not in utf-8 ({error.reason})"
            raise ValueError(f"{self.path}, {where}: no JSON: {what}") from error
        if not isinstance(value, dict):
            is_csv = self.path.endswith((".csv", ".csv.gz"))
            what = value if is_csv else f"must be a JSON object; it is a {type(value).__name__}"
            raise ValueError(f"{self.path}, row {index + 1}: {what}")
        for name, item in value.items() if b"\\ud" in line.lower() else ():
            try:
                json.dumps([name, item], ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                what = f"field {name!a} holds \\u{ord(error.object[error.start]):04x}, half of a character"
                raise ValueError(f"{self.path}, row {index + 1}: {what}: no text has that") from error
        return value


def _check_names(path: Path, names: Sequence[str]) -> None:
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{path}: two columns are named {repeated[0]!r}")


def _objects(path: Path) -> list[Any]:
    """What a JSON file holds: a list of objects, or an object of which exactly one value is such a list."""
    try:
        content = json.loads(bytes(_mapped(path)))
    except ValueError as error:
        raise ValueError(f"{path}: no JSON: {error}") from error
    if isinstance(content, list):
        return content
    values = content.items() if isinstance(content, dict) else ()
    lists = {key: value for key, value in values if isinstance(value, list) and value and isinstance(value[0], dict)}
    if len(lists) != 1:
        has = f"; it has {', '.join(lists)}" if lists else ""
        raise ValueError(f"{path}: must be a list of objects, or an object with one such list{has}")
    return next(iter(lists.values()))


def _csv_rows(path: Path, header: Sequence[str] | None) -> Iterator[dict[str, str] | str]:
    """The rows of a file of comma-separated values, quoted as Excel does; all values are texts, which may span lines.

    Instead of a row that cannot be read, or has more or fewer values than there are columns, what is wrong with it.
    header: names of the columns, where the file may come without a header line: it has one if its first value is the
    first.
    """
    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        reader = csv.reader(text, strict=True)
        names: list[str] = []
        while True:
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if not names:
                    raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
                yield f"line {reader.line_num}: {error}"
                continue
            if not names and values:
                names = values if header is None or values[0] == header[0] else list(header)
                _check_names(path, names)
                values = [] if names is values else values
            if values and len(values) == len(names):
                yield dict(zip(names, values, strict=True))
            elif values:
                yield f"has {len(values)} values for {len(names)} columns ({', '.join(names)})"


def _as_lines(values: Iterable[Any]) -> mmap.mmap | bytes:
    """Values as lines of JSON."""
    with tempfile.TemporaryFile() as file:
        file.writelines(json.dumps(value).encode() + b"\n" for value in values)
        return _map(file)


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
        _check_names(path, table.column_names)
        self._table = table  # views of the map, nothing copied

    def __len__(self) -> int:
        return self._table.num_rows

    def read(self, index: int) -> dict[str, Any]:
        return self._table.slice(index, 1).to_pylist()[0]


def open_reader(path: Path, *, csv_header: Sequence[str] | None = None) -> JsonLines | Arrow:
    """The reader for a file by the ending of its name; ValueError for one that is not what it says, or is not known."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith(".zip"):
            return _open_zipped(path, csv_header)
        if name.endswith(".jsonl"):
            return JsonLines(path, _mapped(path))
        if name.endswith(".json"):
            return JsonLines(path, _as_lines(_objects(path)))
        if name.endswith(".csv"):
            return JsonLines(path, _as_lines(_csv_rows(path, csv_header)))
        if path.name.endswith((".parquet", ".arrow")):
            return Arrow(path)
    except (OSError, EOFError, UnicodeDecodeError, RecursionError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    raise ValueError(
        f"{path}: format not known by its ending; known are jsonl, json, csv (also .gz), parquet, arrow, and "
        "a zip with one of them"
    )


def _open_zipped(path: Path, csv_header: Sequence[str] | None) -> JsonLines | Arrow:
    """The reader of the one data file that a zip archive holds."""
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            hidden = ("__MACOSX", ".")
            names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith(hidden)]
            if len(names) != 1:
                raise ValueError(f"holds {len(names)} files ({', '.join(names[:3])}): unpack it, or keep one")
            member = Path(folder, "rows" + "".join(Path(names[0]).suffixes[-2:]))
            with archive.open(names[0]) as packed, member.open("wb") as file:
                shutil.copyfileobj(packed, file)
            try:
                reader = open_reader(member, csv_header=csv_header)
            except ValueError as error:
                raise ValueError(str(error).removeprefix(f"{member}: ")) from error
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    reader.path = str(path)
    return reader


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
    if not path.name.endswith(".gz"):
        with path.open("rb") as file:
            return _map(file)
    with gzip.open(path) as packed, tempfile.TemporaryFile() as file:
        shutil.copyfileobj(packed, file)
        return _map(file)


def _map(file: BinaryIO | Any) -> mmap.mmap | bytes:
    file.flush()
    file.seek(0, 2)
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.tell() else b""
