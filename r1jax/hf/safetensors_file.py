"""safetensors files, read a part of a tensor at a time and written a tensor at a time.

The format: 8 bytes of header length (little-endian), a JSON header {name: {dtype, shape, data_offsets}}, the tensors'
bytes. The `safetensors` package (0.8.0) reads no float8 into numpy, names few tensors that are at fault, takes a name
that comes twice, and writes a file from tensors that are all in memory; so this module reads by the header's offsets.
It reads rather than maps: three times as fast when every page is new.
"""

import dataclasses
import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

INDEX = "model.safetensors.index.json"  # of a folder of several files: which of them holds which tensor
SINGLE = "model.safetensors"  # the one file of a folder without an index
TYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16), "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in TYPES.items()}
_LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors package


@dataclasses.dataclass(frozen=True)
class Planned:
    """A tensor to be written: its Hugging Face name, type and shape."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Stored(Planned):
    """A tensor on disk: its file, and the offset of its first byte there."""

    file: Path
    offset: int

    def read(self, part: tuple[slice, ...] | None = None) -> np.ndarray:
        """The slices `part` (with start and stop) of it; the rows of the first are read, and no others."""
        if not self.shape:
            return dataclasses.replace(self, shape=(1,)).read().reshape(())
        rows, *rest = part or tuple(slice(0, size) for size in self.shape)
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        count = (rows.stop - rows.start) * row_bytes
        raw = np.fromfile(self.file, np.uint8, count, offset=self.offset + rows.start * row_bytes)
        if raw.size != count:
            raise OSError(f"{self.file} ended within a tensor: it has become shorter since it was checked")
        return raw.view(self.dtype).reshape(-1, *self.shape[1:])[:, *rest]


def read_header(file: Path) -> tuple[dict[str, Stored], list[str]]:
    """(name -> tensor, a line for each fault, which names the file). The header alone is read.

    A tensor that is at fault is there too: its name is not missing, and it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            size, start = os.fstat(stream.fileno()).st_size, stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else _LARGEST_HEADER + 1
            if length > min(_LARGEST_HEADER, size - 8):
                reason = f"cut short or not a safetensors file ({size} bytes do not hold its header)"
                return {}, [f"{file.name}: {reason}"]
            header = json.loads(stream.read(length), object_pairs_hook=_object)
        if not isinstance(header, dict) or not all(isinstance(fields, dict) for fields in header.values()):
            raise ValueError("it is not an object of objects")
    except OSError as error:
        return {}, [f"{file.name}: it cannot be read ({error.strerror})"]
    except (ValueError, RecursionError) as error:
        return {}, [f"{file.name}: its header is damaged ({error})"]
    header.pop("__metadata__", None)
    tensors, spans, faults = {}, [], []
    for name, fields in header.items():
        kind, shape, offsets = str(fields.get("dtype")), fields.get("shape"), fields.get("data_offsets")
        is_sound = _are_counts(shape) and _are_counts(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]
        first, last = offsets if is_sound else (0, 0)
        dtype = TYPES.get(kind, np.dtype(np.uint8))
        tensors[name] = stored = Stored(name, dtype, tuple(shape) if is_sound else (), file, 8 + length + first)
        spans.append((first, last, name))
        if not is_sound:
            faults.append(f"{name} has no sound shape and offsets in the header")
        elif kind not in TYPES:
            faults.append(f"{name} has type {kind}; known: {', '.join(TYPES)}")
        elif stored.num_bytes != last - first:
            faults.append(f"{name} has {last - first} bytes, its shape {stored.shape} needs more or less")
    end, room = 0, size - 8 - length
    for first, last, name in sorted(spans):
        if first < end:
            faults.append(f"{name} begins within another tensor")
        end = max(end, last)
    if end != room:
        word = "cut short" if end > room else "too long"
        faults.append(f"{word}: its header tells of {end} bytes of tensors, it holds {room}")
    return tensors, [f"{file.name}: {fault}" for fault in faults]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in values if names.count(name) > 1)!r} twice")
    return values


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def split_shards(planned: Iterable[Planned], *, max_shard_bytes: int) -> dict[str, list[Planned]]:
    """File name -> its tensors, in order; a file is larger than the limit only if its one tensor is."""
    shards: list[list[Planned]] = [[]]
    room = max_shard_bytes
    for item in planned:
        if item.num_bytes > room and shards[-1]:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(item)
        room -= item.num_bytes
    count = len(shards)
    if count == 1:
        return {SINGLE: shards[0]}
    return {f"model-{i:05}-of-{count:05}.safetensors": shard for i, shard in enumerate(shards, 1)}


def write_files(folder: Path, shards: Mapping[str, list[Planned]], tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes the files and, if there are several, the index; `tensors` are in the order of the plan, and one is held at a time."""
    source = iter(tensors)
    for file_name, shard in shards.items():
        offsets, position = {}, 0
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        for item in sorted(shard, key=lambda item: -item.dtype.itemsize):  # so that each is aligned to its type
            offsets[item.name] = position
            header[item.name] = {
                "dtype": _NAMES[item.dtype],
                "shape": list(item.shape),
                "data_offsets": [position, position + item.num_bytes],
            }
            position += item.num_bytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file_name).open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            for item in shard:
                name, array = next(source)
                if (name, array.dtype, array.shape) != (item.name, item.dtype, item.shape):
                    raise ValueError(f"{name} {array.dtype}{array.shape} came where {item} was planned")
                stream.seek(8 + len(text) + offsets[name])
                stream.write(np.ascontiguousarray(array).view(np.uint8).data)
    if len(shards) > 1:
        weight_map = {item.name: file_name for file_name, shard in shards.items() for item in shard}
        total = sum(item.num_bytes for shard in shards.values() for item in shard)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
