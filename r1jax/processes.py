"""What the processes of one run say to each other: who writes, who was asked to stop, outcomes and arrays for all.

A run on a pod is one program in several processes (`r1jax.launch.distributed`). Each draws the same problems, makes the
same batch and takes the same decisions, and puts only its own shard on its devices: a batch of token ids is small next
to the weights, and packing needs to see all of it. What costs host time, rewards above all, is shared out and
exchanged. The first process alone writes files, checkpoints apart, which all write together.

Every function here but `is_first` must be called by all processes, at the same place, from the main thread: it waits
for the others. With one process they cost nothing. How often they have met, `pulse` counts for `r1jax.launch.watchdog`.
"""

import contextlib
import dataclasses
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_LEAST_BYTES = 256
"""Messages are padded to a power of two of at least this, so that few programs are compiled for them."""
_DIGEST_BLOCK = 1 << 16
"""Elements that are mixed at a time, which a cache holds."""


class OtherProcessError(RuntimeError):
    """What another process did for all of them failed; the message is its error's."""


class ProcessesDifferError(RuntimeError):
    """The processes of a run disagree on what must be the same in all."""


@dataclasses.dataclass
class Pulse:
    """How far this process is."""

    meetings: int = 0  # how often it has met the others
    waits_for: str | None = None  # what it waits for the others for, now


pulse = Pulse()


def is_first() -> bool:
    """Whether this is the process that writes files and tells the user; of one process it is the only one."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    if jax.process_count() == 1:
        return flag
    return bool(_from_all(np.asarray(flag), "whether a signal came").any())


def exchange(value: Any) -> list[Any]:
    """The JSON-able value of each process, in their order; NaN and infinite numbers survive. Keys become strings."""
    if jax.process_count() == 1:
        return [value]
    message = json.dumps(value).encode()
    longest = int(_from_all(np.asarray(len(message), np.int32), "what each has done").max())
    padded = message.ljust(max(_LEAST_BYTES, 1 << (longest - 1).bit_length()))
    messages = _from_all(np.frombuffer(padded, np.uint8), "what each has done")
    return [json.loads(bytes(message)) for message in messages]


def gather(function: Callable[[], Any]) -> list[Any]:
    """What the function returns in each process (JSON-able, see `exchange`), in their order, when all are done.

    If it raises in one of them, all raise: the others an OtherProcessError with the first one's message.
    """
    if jax.process_count() == 1:
        return [function()]
    result, failed = None, None
    try:
        result = function()
    except Exception as error:
        failed = error
    outcomes = exchange({"result": result, "error": None if failed is None else str(failed) or type(failed).__name__})
    if failed is not None:
        raise failed
    for process, outcome in enumerate(outcomes):
        if outcome["error"] is not None:
            raise OtherProcessError(f"{outcome['error']} (process {process})")
    return [outcome["result"] for outcome in outcomes]


def on_first(function: Callable[[], Any]) -> Any:
    """Calls the function in the first process alone; what it returns or raises is everyone's, as `gather`'s."""
    return gather(lambda: function() if is_first() else None)[0]


def require_same(tree: Any, what: str) -> None:
    """Raises ProcessesDifferError, naming `what`, unless all processes hold the same text or tree of host arrays."""
    if jax.process_count() == 1:
        return
    digest = 0
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        digest = zlib.crc32(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode(), digest)
        digest = zlib.crc32(array.tobytes(), digest)
    digests = _from_all(np.asarray(digest, np.uint32), what)
    if len(set(digests.tolist())) > 1:
        outcomes = ", ".join(f"{digest:08x}" for digest in digests.tolist())
        raise ProcessesDifferError(
            f"{what} is not the same in all processes (digests by process: {outcomes}): is something drawn at random, read "
            "from a file that differs between hosts, or in the order of a set?"
        )


def to_host(array: Any) -> np.ndarray:
    """The whole array in host memory, wherever its shards lie."""
    if not isinstance(array, jax.Array) or jax.process_count() == 1:
        return np.asarray(array)
    if array.is_fully_addressable or array.is_fully_replicated:
        with _meeting("the devices"):
            return np.asarray(array)
    return _from_all(array, "the devices", tiled=True)


def array_digests(arrays: Sequence[jax.Array]) -> list[str]:
    """16 hexadecimal digits of each array's bits, wherever its shards lie; they tell arrays apart and are no
    cryptographic proof.

    An element's bits and its index in the whole array are mixed by MurmurHash3's finalizer, so that neither a change of
    signs nor a permutation cancels out; summed are what this process holds (of replicas, the first) and then the
    processes. In numpy, because one compilation a shape would cost more than the sums.
    """
    sums = np.array([_bit_sums(array) for array in arrays], np.uint32).reshape(-1, 2)
    if jax.process_count() > 1:
        sums = _from_all(sums, "the digests of arrays").sum(axis=0, dtype=np.uint32)
    return [f"{first:08x}{second:08x}" for first, second in sums.tolist()]


def _bit_sums(array: jax.Array) -> tuple[int, int]:
    """Modulo 2^32, over the shards of this process."""
    first = second = 0
    for shard in array.addressable_shards:
        if shard.replica_id != 0:
            continue
        values = np.asarray(shard.data)
        index = np.zeros((), np.uint32)
        for dim, (size, held) in enumerate(zip(array.shape, shard.index, strict=True)):
            along = np.arange(*held.indices(size), dtype=np.uint32)
            index = index * np.uint32(size) + along.reshape((-1,) + (1,) * (values.ndim - 1 - dim))
        index, bits = index.reshape(-1), values.view(f"u{values.dtype.itemsize}").reshape(-1)
        for start in range(0, bits.size, _DIGEST_BLOCK):
            part = slice(start, start + _DIGEST_BLOCK)
            mixed = index[part] * np.uint32(0x9E3779B1)
            mixed += bits[part]
            mixed ^= mixed >> 16
            mixed *= np.uint32(0x85EBCA6B)
            mixed ^= mixed >> 13
            mixed *= np.uint32(0xC2B2AE35)
            first += int(np.sum(mixed, dtype=np.uint32))
            mixed ^= mixed >> 16
            second += int(np.sum(mixed, dtype=np.uint32))
    return first % 2**32, second % 2**32


def _from_all(value: Any, what: str, *, tiled: bool = False) -> np.ndarray:
    """The value of each process, stacked, or (tiled) the whole array that they hold shards of: a meeting."""
    with _meeting(what):
        return np.asarray(multihost_utils.process_allgather(value, tiled=tiled))


@contextlib.contextmanager
def _meeting(what: str) -> Iterator[None]:
    pulse.waits_for = what
    try:
        yield
    finally:
        pulse.waits_for = None
    pulse.meetings += 1
