"""Where stages get their records: a file, another stage's work directory, or a function."""

from collections.abc import Iterator

from r1jax.data.records import open_records
from r1jax.specs.functions import check_function, load_function
from r1jax.specs.source import SourceSpec
from r1jax.tasks.sources.rows import Row


def check_records(spec: SourceSpec, *, where: str) -> None:
    """Raises ValueError, naming the key below ``where``, for a function that is not there; what a path names may come later."""
    if spec.function is not None:
        check_function(spec.function, where=f"{where}.function")


def records_of(spec: SourceSpec, *, seed: int) -> Iterator[Row]:
    """The records of a path or of a function, read as they are asked for.

    A path is a file, a folder (with "split" and "subset", if it holds several), or the work directory of a finished stage. A
    function yields records; it is called with the seed and the arguments. Raises ValueError, or what
    ``data.records.open_records`` raises, for what is not there.
    """
    if spec.path is not None:
        rows = open_records(spec.path, split=spec.split, subset=spec.subset)
        yield from map(rows.row, range(len(rows)))
    elif spec.function is not None:
        for number, record in enumerate(load_function(spec.function)(seed=seed, **spec.arguments), start=1):
            yield Row(record, where=f"{spec.function}, record {number}")
