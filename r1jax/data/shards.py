"""Writes a set of records: without duplicates and test questions, in shards, with a table by domain (R1 v2 Table 5).

A record is a dict: "messages", "domain", "task", "rounds" (user messages), "num_tokens" (of all messages' contents),
"provenance" (where it comes from and what was said of it).
"""

import collections
import contextlib
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from r1jax.tasks.decontaminate import NgramIndex
from r1jax.tasks.problem import stable_hash

DUPLICATE = "duplicate"


def unshared(
    records: Iterable[dict[str, Any]], *, index: NgramIndex | None = None, rejected: collections.Counter[str]
) -> Iterator[dict[str, Any]]:
    """The records whose conversation was not there before and that share no n-gram with a test set.

    Any content is looked at, questions and answers (R1 v2 Sec. D.1); white space does not tell records apart. Of equal
    records the first stays; a hash of each is kept in memory. What is left out is counted in ``rejected``, by reason.
    """
    seen: set[int] = set()
    for record in records:
        contents = [message["content"] for message in record["messages"]]
        key = stable_hash(*(" ".join(content.split()) for content in contents))
        hit = None if index is None else next((found for text in contents if (found := index.find(text))), None)
        if key in seen:
            rejected[DUPLICATE] += 1
        elif hit is not None:
            rejected[f"shared with {hit[0]}"] += 1
        else:
            seen.add(key)
            yield record


def write_records(
    records: Iterable[Mapping[str, Any]], folder: Path, *, file_format: str, records_per_shard: int
) -> dict[str, Any]:
    """Writes ``folder`` with files train-00000-of-00003.jsonl, ...; all of it appears at once, or nothing.

    file_format: "jsonl" or "parquet", in which "provenance" is JSON text: its keys differ from record to record.

    Returns {"files": {name: {"records", "sha256"}}, "table": what ``table_of`` gives}.
    """
    encode = _as_parquet if file_format == "parquet" else _as_jsonl
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    sums: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    sizes, source = [], iter(records)
    while shard := list(itertools.islice(source, records_per_shard)):
        for record in shard:
            sums[record["domain"]].update(samples=1, rounds=record["rounds"], tokens=record["num_tokens"])
        with (temporary / f"{len(sizes)}").open("wb") as file:
            encode(shard, file)
            file.flush()
            with contextlib.suppress(OSError):
                os.fsync(file.fileno())
        sizes.append(len(shard))
    files = {}
    for number, size in enumerate(sizes):
        path = temporary / f"train-{number:05d}-of-{len(sizes):05d}.{file_format}"
        (temporary / f"{number}").rename(path)
        files[path.name] = {"records": size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return {"files": files, "table": table_of(sums)}


def table_of(sums: Mapping[str, collections.Counter[str]]) -> list[dict[str, Any]]:
    """Rows {"domain", "samples", "rounds", "tokens"} in order of samples, the last a "Total"; averages in the latter two."""
    ordered = sorted(sums.items(), key=lambda item: (-item[1]["samples"], item[0]))
    total = sum((of for _, of in ordered), collections.Counter())
    return [
        {"domain": domain, "samples": of["samples"]}
        | {name: of[name] / max(of["samples"], 1) for name in ("rounds", "tokens")}
        for domain, of in [*ordered, ("Total", total)]
    ]


def as_markdown(table: Iterable[Mapping[str, Any]]) -> str:
    """The table as the paper prints it."""
    lines = ["| domain | samples | avg rounds | avg tokens |", "|---|---|---|---|"]
    lines += [f"| {row['domain']} | {row['samples']:,} | {row['rounds']:.1f} | {row['tokens']:.1f} |" for row in table]
    return "\n".join(lines) + "\n"


def _as_jsonl(records: list[Mapping[str, Any]], file: Any) -> None:
    for record in records:
        file.write((json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _as_parquet(records: list[Mapping[str, Any]], file: Any) -> None:
    import pyarrow
    from pyarrow import parquet

    message = pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])
    texts, counts = ("domain", "task", "provenance"), ("rounds", "num_tokens")
    fields = [("messages", pyarrow.list_(message)), *((name, pyarrow.string()) for name in texts)]
    schema = pyarrow.schema([*fields, *((name, pyarrow.int64()) for name in counts)])
    rows = [{**record, "provenance": json.dumps(record["provenance"], ensure_ascii=False)} for record in records]
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), file)
