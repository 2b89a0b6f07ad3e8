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
      sequences: one dict a sequence, field name -> array [T_i]; every sequence has the same fields, all of them of its
        length. Two names are taken: `segment_ids`, `positions`.
      length: T, tokens in a row.
      rows_multiple: the number of rows is rounded up to a multiple of this (at least one) with empty rows.

    Returns:
      arrays: every field as [B, T], zero where there is padding, plus `segment_ids` [B, T] int32 (1, 2, ... within a
        row, 0 = padding) and `positions` [B, T] int32 (from 0 in each segment, 0 in padding).
      slots: where each sequence lies, in the order of `sequences`.

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
    arrays |= {name: np.zeros((num_rows, length), np.int32) for name in ("segment_ids", "positions")}
    segments_in_row = [0] * num_rows
    for slot, fields in sorted(zip(slots, sequences, strict=True), key=lambda pair: pair[0]):
        segments_in_row[slot.row] += 1
        positions = np.arange(slot.stop - slot.start)
        for name, value in {**fields, "segment_ids": segments_in_row[slot.row], "positions": positions}.items():
            arrays[name][slot.row, slot.start : slot.stop] = value
    return arrays, slots


def _best_fit(sizes: list[int], length: int) -> tuple[list[Slot], int]:
    """Places each size in the fullest row that still holds it; a new row where none does."""
    # (free tokens, minus the turn, row): of equal space the latest row comes first
    free: list[tuple[int, int, int]] = []
    slots: dict[int, Slot] = {}
    num_rows = 0
    for turn, index in enumerate(sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))):
        size = sizes[index]
        fullest = bisect.bisect_left(free, (size,))
        if fullest < len(free):
            space, _, row = free.pop(fullest)
        else:
            space, row = length, num_rows
            num_rows += 1
        slots[index] = Slot(row, length - space, length - space + size)
        if space > size:
            bisect.insort(free, (space - size, -turn, row))
    return [slots[index] for index in range(len(sizes))], num_rows
