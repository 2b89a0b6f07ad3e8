"""Which problems share n words in a row with a test set (R1 v2 Sec. D.1: any 10-gram shared with a question or
solution).

What a word is: the text is NFKC-normalised and case-folded; a word is a run of letters and digits, and each CJK
character is a word; everything else (punctuation, white space, LaTeX's braces and backslashes) only
separates. So ``\\frac{1}{2}`` is "frac 1 2". The papers do not state their normalisation; this is ours. A text of fewer
than n words is shared if the whole of it is one of the test texts.

Paraphrases are missed, as in the paper. N-grams are compared by a hash of 64 bits: among 10^7 n-grams of a
training set and 10^6 of a test set, one false alarm is expected in a million runs, and it costs one problem.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from r1jax.specs.tasks import TestSetSpec
from r1jax.tasks.problem import stable_hash
from r1jax.tasks.sources.fields import fields_of
from r1jax.tasks.sources.rows import open_rows, stamps_of

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_word_hash = functools.lru_cache(maxsize=2**16)(stable_hash)


class NgramIndex:
    """The n-grams of test sets: 12 bytes for each, whatever the length of the texts."""

    def __init__(self, against: Mapping[str, Iterable[str]], *, n: int = 10):
        """Of the texts by the name of their set, each iterable read once; ``n`` words in a row, at least 1."""
        self.n, self.names = n, list(against)
        hashes, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int32)]
        for owner, texts in enumerate(against.values()):
            for text in texts:
                unique = np.unique(_ngram_hashes(words(text), n))
                hashes.append(unique)
                owners.append(np.full(len(unique), owner, np.int32))
        self._hashes, first = np.unique(np.concatenate(hashes), return_index=True)
        self._owners = np.concatenate(owners)[first]

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, text: str) -> tuple[str, str] | None:
        """(name of the test set, the n-gram as normalised words joined by spaces) of the first shared n-gram, or None.

        text: a question without the wording of a prompt, which all would share.
        """
        text_words = words(text)
        hashes = _ngram_hashes(text_words, self.n)
        if not len(self._hashes) or not len(hashes):
            return None
        indices = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        hits = np.flatnonzero(self._hashes[indices] == hashes)
        if not len(hits):
            return None
        start = int(hits[0])
        return self.names[self._owners[indices[start]]], " ".join(text_words[start : start + self.n])


def make_index(test_sets: Sequence[TestSetSpec], *, ngram: int) -> NgramIndex:
    """The n-grams of the questions and solutions of test sets; of equal specs and files that have not changed the same
    index.

    Raises ValueError, naming the test set, for an unknown data set, nothing there, or a bad row.
    """
    return _index(tuple(test_sets), ngram, stamps_of(test_set_keys(test_sets)))


def test_set_keys(test_sets: Sequence[TestSetSpec]) -> dict[str, TestSetSpec]:
    """Test sets by what errors call them."""
    return {f"decontaminate {spec.label}": spec for spec in test_sets}


@functools.lru_cache(maxsize=2)
def _index(test_sets: tuple[TestSetSpec, ...], ngram: int, stamps: tuple) -> NgramIndex:
    return NgramIndex({spec.label: _texts(spec) for spec in test_sets}, n=ngram)


def _texts(spec: TestSetSpec) -> Iterator[str]:
    fields = fields_of(spec.dataset)
    rows = open_rows(**spec.location, csv_header=fields.csv_header)
    for index in range(len(rows)):
        row = rows.row(index)
        yield fields.question(row)
        yield str(row.get(fields.solution, default=""))


def words(text: str) -> list[str]:
    """The normalised words of a text."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _ngram_hashes(text_words: list[str], n: int) -> np.ndarray:
    """[max(W - n + 1, 1)] uint64 hashes of the n-grams of W words; of the whole text if W < n; none if W = 0."""
    hashes = np.array([_word_hash(word) for word in text_words], np.uint64)
    width = min(n, len(hashes))
    if width == 0:
        return hashes
    mixed = np.full(len(hashes) - width + 1, width, np.uint64)
    for offset in range(width):
        mixed = (mixed ^ hashes[offset : len(hashes) - width + 1 + offset]) * _FACTOR
        mixed ^= mixed >> np.uint64(29)
    return mixed
