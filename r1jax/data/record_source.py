"""Where stages get their records: a file, another stage's work directory, or a function."""

from collections.abc import Iterator, Mapping
from typing import Any

from r1jax.data.records import open_records
from r1jax.specs.functions import load_function
from r1jax.stages.keys import check_keys, options_of
from r1jax.tasks.sources.rows import Row

_OF_A_PATH, _OF_A_FUNCTION = ("split", "subset"), ("arguments",)


def check_records(spec: Mapping[str, Any], *, where: str, required: tuple[str, ...] = ()) -> None:
    """Raises ValueError, naming the key, for a spec that ``records_of`` could not read; what a path names may come later.

    required: keys that the stage wants besides.
    """
    check_keys(spec, required=required, optional=("path", *_OF_A_PATH, "function", *_OF_A_FUNCTION), where=where)
    if ("path" in spec) == ("function" in spec):
        raise ValueError(f"{where}: must have either 'path', or 'function' and if wanted 'arguments'")
    kind, others = ("path", _OF_A_FUNCTION) if "path" in spec else ("function", _OF_A_PATH)
    if misplaced := [key for key in others if key in spec]:
        raise ValueError(f"{where}: {misplaced[0]!r} does not go with {kind!r}")
    if "function" in spec:
        load_function(spec["function"])


def records_of(spec: Mapping[str, Any], *, seed: int) -> Iterator[Row]:
    """The records of {"path": ...}, or of {"function": "module:function", "arguments": {}}, read as they are asked for.

    A path is a file, a folder (with "split" and "subset", if it holds several), or the work directory of a finished stage. A
    function yields records; it is called with the seed and the arguments. Raises ValueError, or what
    ``data.records.open_records`` raises, for what is not there.
    """
    if "path" in spec:
        rows = open_records(spec["path"], **options_of(spec, _OF_A_PATH))
        yield from map(rows.row, range(len(rows)))
        return
    made = load_function(spec["function"])(seed=seed, **(spec.get("arguments") or {}))
    for number, record in enumerate(made, start=1):
        yield Row(record, where=f"{spec['function']}, record {number}")
