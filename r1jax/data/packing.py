"""Packing: several token sequences share one row of a fixed length.

Rows have one length, so a step compiles once; segment ids keep the sequences of a row from seeing each other and
positions start again at 0 in each (V3 Sec. 5.1 trains its SFT this way). Plain numpy, no jax: runs in data workers.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Slot(NamedTuple):
    """Where a sequence lies: `arrays[name][row, start:stop]`."""

    row: int
    start: int
    stop: int


def pack(
    sequences: Sequence[dict[str, np.ndarray]], *, length: int, rows_multiple: int = 1
) -> tuple[dict[str, np.ndarray], list[Slot]]:
    """Packs sequences into rows of `length` tokens by best fit, longest sequence first.

    Args:
      sequences: one dict a sequence, field name -> array [T_i]; every sequence has the same fields (tokens, loss mask,
        advantages, ...), all of them of the sequence's own length. Two names are taken: `segment_ids`, `positions`.
      length: T, tokens in a row.
      rows_multiple: the number of rows is rounded up to a multiple of this (at least one multiple) with empty rows,
        so that a batch divides into micro-batches and over the mesh.

    Returns:
      arrays: every field as [B, T], zero where there is padding, plus `segment_ids` [B, T] int32 (1, 2, ... within a
        row, 0 = padding) and `positions` [B, T] int32 (from 0 in each segment, 0 in padding).
      slots: the place of each sequence, in the order of `sequences`.

    The result depends on the sequences' lengths and order alone. Raises ValueError for a sequence that is empty or
    longer than a row (naming its index and the lengths), and for fields that differ.
    """
    if not sequences:
        raise ValueError("nothing to pack: no sequences")
    sizes = [len(next(iter(fields.values()))) for fields in sequences]
    for index, (size, fields) in enumerate(zip(sizes, sequences, strict=True)):
        if fields.keys() != sequences[0].keys():
            raise ValueError(f"sequence {index} has fields {sorted(fields)}, sequence 0 has {sorted(sequences[0])}")
        if any(np.shape(value) != (size,) for value in fields.values()):
            raise ValueError(f"sequence {index}: fields must be 1-D and of one length")
        if size == 0:
            raise ValueError(f"sequence {index} is empty")
        if size > length:
            raise ValueError(f"sequence {index} has {size} tokens, longer than a row of {length}")

    slots, num_rows = _best_fit(sizes, length)
    num_rows += -num_rows % rows_multiple
    arrays = {name: np.zeros((num_rows, length), np.asarray(value).dtype) for name, value in sequences[0].items()}
    segment_ids = np.zeros((num_rows, length), np.int32)
    positions = np.zeros((num_rows, length), np.int32)
    segments_in_row = [0] * num_rows
    for slot, fields in sorted(zip(slots, sequences, strict=True), key=lambda pair: pair[0]):
        place = slice(slot.start, slot.stop)
        segments_in_row[slot.row] += 1
        segment_ids[slot.row, place] = segments_in_row[slot.row]
        positions[slot.row, place] = np.arange(slot.stop - slot.start)
        for name, value in fields.items():
            arrays[name][slot.row, place] = value
    return {**arrays, "segment_ids": segment_ids, "positions": positions}, slots


def _best_fit(sizes: list[int], length: int) -> tuple[list[Slot], int]:
    """Places each size in the fullest row that still holds it; a new row where none does."""
    free: list[
        tuple[int, int, int]
    ] = []  # (free tokens, minus the turn, row): of equal space the latest row comes first
    slots: dict[int, Slot] = {}
    num_rows = 0
    for turn, index in enumerate(sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))):
        size = sizes[index]
        found = bisect.bisect_left(free, (size,))
        if found < len(free):
            space, _, row = free.pop(found)
        else:
            space, row = length, num_rows
            num_rows += 1
        slots[index] = Slot(row, length - space, length - space + size)
        if space > size:
            bisect.insort(free, (space - size, -turn, row))
    return [slots[index] for index in range(len(sizes))], num_rows
