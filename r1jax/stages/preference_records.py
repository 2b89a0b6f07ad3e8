"""Where the stages of reward models get their records: a file, another stage's work directory, or a function."""

from collections.abc import Mapping
from typing import Any

from r1jax.data.preferences import read_records
from r1jax.rewards.rubric import load_function
from r1jax.stages.keys import check_keys


def check_records(spec: Mapping[str, Any], *, where: str) -> None:
    """Raises ValueError, naming the key, for a spec that ``records_of`` could not read; what a path names may come later."""
    check_keys(spec, required=(), optional=("path", "function", "arguments"), where=where)
    if ("path" in spec) == ("function" in spec) or ("path" in spec and "arguments" in spec):
        raise ValueError(f"{where}: must have either 'path', or 'function' and if wanted 'arguments'")
    if "function" in spec:
        load_function(spec["function"])


def records_of(spec: Mapping[str, Any], *, seed: int) -> list[tuple[str, Any]]:
    """(where it stands, record) of {"path": ...}, or of {"function": "module:function", "arguments": {}}.

    A path is a file, a folder, or the work directory of a finished stage. A function yields records; it is called with the
    seed and the arguments. Raises ValueError, or what ``data.records.open_records`` raises, for what is not there.
    """
    if "path" in spec:
        return read_records(spec["path"])
    made = load_function(spec["function"])(seed=seed, **(spec.get("arguments") or {}))
    return [(f"{spec['function']}, record {place}", record) for place, record in enumerate(made)]
