"""The test sets that training problems are compared with: their texts, and the index of their n-grams."""

import functools
from collections.abc import Iterator, Sequence

from r1jax.specs.tasks import TestSetSpec
from r1jax.tasks.decontaminate import NgramIndex
from r1jax.tasks.sources.fields import fields_of
from r1jax.tasks.sources.rows import open_source, stamp_of


def make_index(test_sets: Sequence[TestSetSpec], *, ngram: int) -> NgramIndex:
    """The n-grams of the questions and solutions of test sets; of equal specs and files that have not changed the same index.

    Raises:
        ValueError: naming the test set: an unknown data set, nothing there, a bad row.
    """
    return _index(tuple(test_sets), ngram, stamps_of(test_sets))


def stamps_of(test_sets: Sequence[TestSetSpec]) -> tuple:
    """What changes when a file of the test sets does; ValueError as ``make_index``."""
    return tuple(stamp_of(spec, what=f"decontaminate {spec.label}") for spec in test_sets)


@functools.lru_cache(maxsize=2)
def _index(test_sets: tuple[TestSetSpec, ...], ngram: int, stamps: tuple) -> NgramIndex:
    return NgramIndex({spec.label: _texts(spec) for spec in test_sets}, n=ngram)


def _texts(spec: TestSetSpec) -> Iterator[str]:
    fields = fields_of(spec.dataset)
    rows = open_source(spec, what=f"decontaminate {spec.label}", csv_header=fields.csv_header)
    for index in range(len(rows)):
        row = rows.row(index)
        yield fields.question(row)
        if solution := fields.solution(row):
            yield solution
