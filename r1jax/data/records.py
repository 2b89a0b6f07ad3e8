"""Records from files, another stage's work directory or a function; conversations among them as a finite source of
documents.

A record is a row of a jsonl, parquet, csv or arrow file with one of

    messages                   [{"role", "content"}, ...], the last by the assistant
    conversations              the same as [{"from": "human" | "gpt" | "system", "value"}, ...]
    prompt and completion      two texts (or "response" for the second)

and whatever else; a message may have what ``text.templates.MESSAGE_FIELDS`` lists, such as ``reasoning_content``. A
list may be written as JSON text.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from r1jax.specs.functions import check_function, load_function, naming_function
from r1jax.specs.policy import SourceSpec
from r1jax.tasks.problem import stable_hash
from r1jax.tasks.sources.rows import ENDINGS, Row, Rows, data_files, open_rows
from r1jax.text.templates import MESSAGE_FIELDS

FOLDER = "data"  # where a stage that makes records leaves them, in its work directory
_ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}


class RecordsMissingError(FileNotFoundError):
    """The stage that makes the records has not finished: an error when they are needed, none when a config is checked."""


def document_at(
    index: int, *, seed: int, path: str, split: str | None = None, subset: str | None = None
) -> list[dict[str, str]]:
    """The conversation at ``index`` of the endless sequence of epochs, each in a new order, by the seed.

    Raises what ``open_records`` and ``messages_of`` raise.
    """
    rows = open_records(path, split=split, subset=subset)
    epoch, within = divmod(index, len(rows))
    return messages_of(rows.row(int(_order(len(rows), seed, epoch)[within])))


def open_records(path: str | Path, *, split: str | None = None, subset: str | None = None) -> Rows:
    """The rows of a set of records, opened once as long as the file or folder does not change.

    path: a work directory of a stage that makes records, or what ``tasks.sources.rows.open_rows`` reads; split, subset:
    of a folder that holds several.

    Raises RecordsMissingError where a folder is not there, or of a stage that has not finished; ValueError for a file
    that is not there.
    """
    folder = Path(path).expanduser()
    is_file = str(path).startswith("package:") or str(path).endswith(ENDINGS) or "*" in str(path)
    is_done = (folder / "DONE").is_file()
    if (folder / "config.json").is_file() and not is_done:
        raise RecordsMissingError(f"{path}: is not the work directory of a finished stage: it has no DONE")
    if not is_file and not folder.exists():
        raise RecordsMissingError(f"{path}: there is no such folder with records")
    if is_done and not (folder / FOLDER).is_dir():
        raise ValueError(f"{path}: is the work directory of a stage that made no records: it has no {FOLDER}/")
    location = str(path) if is_file else str(folder / FOLDER if is_done else folder)
    return _opened(location, split, subset, _stamp(location))


def check_records(spec: SourceSpec, *, where: str) -> None:
    """Raises ValueError, naming the key below ``where``, for a function that is not there; what a path names may come later."""
    if spec.function is not None:
        check_function(spec.function, where=f"{where}.function")


def records_of(spec: SourceSpec, *, seed: int) -> Iterator[Row]:
    """The records of a path (``open_records``) or of a function, read as they are asked for.

    A function is called with the seed and the arguments, and yields records. Raises what ``open_records`` raises.
    """
    if spec.path is not None:
        rows = open_records(spec.path, split=spec.split, subset=spec.subset)
        yield from map(rows.row, range(len(rows)))
    elif spec.function is not None:
        with naming_function(spec.function):
            for number, record in enumerate(load_function(spec.function)(seed=seed, **spec.arguments), start=1):
                yield Row(record, where=f"{spec.function}, record {number}")


def messages_of(row: Row) -> list[dict[str, str]]:
    """The conversation of a record. Raises ValueError, naming file, row and field, unless the assistant ends it."""
    keys = {"messages": ("role", "content"), "conversations": ("from", "value")}
    field = next((name for name in keys if row.get(name) is not None), "prompt")
    if field == "prompt":
        texts = {"user": row.text("prompt"), "assistant": row.text("completion", "response")}
        messages = [{"role": role, "content": content} for role, content in texts.items()]
    else:
        given = row.parsed(field)
        if not isinstance(given, list):
            raise row.error(field, f"must be a list of messages; it is a {type(given).__name__}")
        messages = [_message(row, field, message, *keys[field]) for message in given]
    roles = [message["role"] for message in messages]
    if len(messages) < 2 or roles[-1] != "assistant" or "user" not in roles:
        raise row.error(
            field, f"must be a conversation that the assistant ends; its roles are {', '.join(roles) or 'none'}"
        )
    return messages


def _message(row: Row, field: str, message: Any, role_key: str, content_key: str) -> dict[str, str]:
    given = message if isinstance(message, Mapping) else {}
    role, content = _ROLES.get(given.get(role_key, "")), given.get(content_key)
    if role is None or not isinstance(content, str):
        raise row.error(
            field, f"has a message without a known {role_key!r} and a text {content_key!r}: {message!r:.80}"
        )
    return {"role": role, "content": content} | {name: given[name] for name in MESSAGE_FIELDS if given.get(name)}


def _stamp(location: str) -> tuple:
    """What changes when the file or folder is written anew: asked for every document, so one look must do."""
    files = [Path(location)] if Path(location).exists() else data_files(location)
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in (file.stat() for file in files))


@functools.lru_cache(maxsize=8)
def _opened(path: str, split: str | None, subset: str | None, stamp: tuple) -> Rows:
    return open_rows(path, split=split, subset=subset)


@functools.lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    """[count] the order of the records in an epoch."""
    return np.random.default_rng(stable_hash("records", seed, epoch)).permutation(count)
