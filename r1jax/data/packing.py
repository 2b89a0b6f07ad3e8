"""Packing: several token sequences share one row of a fixed length.

Rows have one length, so a step compiles once; segment ids keep the sequences of a row from seeing each other and
positions start again at 0 in each (V3 Sec. 5.1 trains its SFT this way). Sequences that begin alike, as the outputs of
one question do, are a group: a row holds what they share once, as a segment that theirs name as their prefix and go on
from. Plain numpy, no jax: runs in data workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

Fields = dict[str, np.ndarray]
"""A sequence: field name -> array [T_i], or [T_i, ...]."""


class Slot(NamedTuple):
    """Where a sequence lies: `arrays[name][row, start:stop]`."""

    row: int
    start: int
    stop: int


class Group(NamedTuple):
    """Sequences whose first `num_shared` entries are the same, but for fields of which it does not matter."""

    sequences: Sequence[Fields]
    num_shared: int = 0


def pack(sequences: Sequence[Fields], *, length: int, rows_multiple: int = 1) -> tuple[Fields, list[Slot]]:
    """Packs sequences that share nothing: `pack_groups` of groups of one, without `prefix_ids`."""
    arrays, slots = pack_groups([Group([fields]) for fields in sequences], length=length, rows_multiple=rows_multiple)
    del arrays["prefix_ids"]
    return arrays, slots


def pack_groups(groups: Sequence[Group], *, length: int, rows_multiple: int = 1) -> tuple[Fields, list[Slot]]:
    """Packs groups of sequences into rows of `length` tokens by best fit, longest first.

    Args:
      groups: every sequence has the same fields, all of them of its length. Three names are taken: `segment_ids`,
        `prefix_ids`, `positions`. A sequence has more entries than its group shares. Shared entries are the first
        sequence's.
      length: T, tokens in a row.
      rows_multiple: the number of rows is rounded up to a multiple of this (at least one) with empty rows.

    Returns:
      arrays: every field as [B, T] or [B, T, ...], zero where there is padding, plus int32 [B, T]
        `segment_ids`: 1, 2, ... within a row, 0 = padding;
        `prefix_ids`: the segment, further left in the row, that holds what the token's group shares; 0 = there is none;
        `positions`: from 0 in each sequence, so the first of what follows a prefix is its length; 0 in padding.
      slots: where what each sequence does not share lies, in the order of the groups' sequences.

    A group that does not fit into one row is spread over several, each with the prefix. The result depends on the
    lengths and their order alone. Raises ValueError for a sequence that is empty, no longer than what it shares, or
    longer than a row (naming its index and the lengths), and for fields that differ.
    """
    sequences = [fields for group in groups for fields in group.sequences]
    if not sequences:
        raise ValueError("nothing to pack: no sequences")
    shared = [group.num_shared for group in groups for _ in group.sequences]
    sizes = [len(next(iter(fields.values()))) for fields in sequences]
    for index, (size, fields) in enumerate(zip(sizes, sequences, strict=True)):
        if fields.keys() != sequences[0].keys():
            raise ValueError(f"sequence {index} has fields {sorted(fields)}, sequence 0 has {sorted(sequences[0])}")
        if any(np.shape(value)[:1] != (size,) for value in fields.values()):
            raise ValueError(f"sequence {index}: fields must be of one length")
        if size == 0:
            raise ValueError(f"sequence {index} is empty")
        if size <= shared[index]:
            raise ValueError(f"sequence {index} has {size} tokens, no more than the {shared[index]} of its prefix")
        if size > length:
            raise ValueError(f"sequence {index} has {size} tokens, longer than a row of {length}")

    rows, members = _Rows(length), iter(range(len(sequences)))
    own_sizes = [{(i := next(members)): sizes[i] - group.num_shared for _ in group.sequences} for group in groups]
    whole = [group.num_shared + sum(own.values()) for group, own in zip(groups, own_sizes, strict=True)]
    for number in sorted(range(len(groups)), key=lambda number: -whole[number]):
        rows.place(own_sizes[number], groups[number].num_shared)

    num_rows = len(rows.space) + -len(rows.space) % rows_multiple
    first = {name: np.asarray(value) for name, value in sequences[0].items()}
    arrays = {name: np.zeros((num_rows, length, *value.shape[1:]), value.dtype) for name, value in first.items()}
    arrays |= {name: np.zeros((num_rows, length), np.int32) for name in ("segment_ids", "prefix_ids", "positions")}
    segments_in_row, prefix_of_row = [0] * num_rows, [0] * num_rows
    for slot, index, is_prefix in sorted(rows.pieces):
        segments_in_row[slot.row] += 1
        first, size = (0 if is_prefix else shared[index]), slot.stop - slot.start
        ids = {"segment_ids": segments_in_row[slot.row], "positions": np.arange(first, first + size)}
        if is_prefix:
            prefix_of_row[slot.row] = segments_in_row[slot.row]
        elif shared[index]:
            ids["prefix_ids"] = prefix_of_row[slot.row]  # a group's pieces in a row follow one another
        fields = {name: value[first : first + size] for name, value in sequences[index].items()}
        for name, value in (fields | ids).items():
            arrays[name][slot.row, slot.start : slot.stop] = value
    slots = {index: slot for slot, index, is_prefix in rows.pieces if not is_prefix}
    return arrays, [slots[index] for index in range(len(sequences))]


class _Rows:
    """Rows that are filled from the left: a piece goes into the fullest that still holds it, else into a new one."""

    def __init__(self, length: int):
        self.length = length
        self.space: list[int] = []  # free tokens of each row
        self.latest: list[int] = []  # how many pieces lay in the rows when its last one came
        self.pieces: list[tuple[Slot, int, bool]] = []  # (where, sequence, is it what the sequence's group shares)

    def place(self, sizes: dict[int, int], num_shared: int) -> None:
        """A group: ``sizes`` of its sequences by index, without the shared part, which comes first in each row."""
        with_prefix: list[int] = []
        for index, size in sorted(sizes.items(), key=lambda item: -item[1]):
            row = self._fullest(with_prefix, size)
            if row is None:
                row = self._fullest(range(len(self.space)), num_shared + size)
                if row is None:
                    row = len(self.space)
                    self.space.append(self.length)
                    self.latest.append(0)
                with_prefix.append(row)
                if num_shared:
                    self._append(row, num_shared, index, is_prefix=True)
            self._append(row, size, index, is_prefix=False)

    def _fullest(self, rows: Iterable[int], size: int) -> int | None:
        """Of equal space the latest row comes first."""
        return min(
            (row for row in rows if self.space[row] >= size),
            key=lambda row: (self.space[row], -self.latest[row]),
            default=None,
        )

    def _append(self, row: int, size: int, index: int, *, is_prefix: bool) -> None:
        start = self.length - self.space[row]
        self.pieces.append((Slot(row, start, start + size), index, is_prefix))
        self.space[row] -= size
        self.latest[row] = len(self.pieces)
