"""Memory of the devices here: what there is, and the most that was taken. A CPU's devices share the host's."""

import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GIB = 1 << 30
_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(devices: Sequence[Any]) -> int | None:
    """Bytes that each of the local devices may take; None where nothing says it."""
    if devices[0].platform != "cpu":
        return (devices[0].memory_stats() or {}).get("bytes_limit")
    host = _available()
    return None if host is None else host // len(devices)


def total_bytes(devices: Sequence[Any]) -> int | None:
    """Bytes of one device; of a CPU those of the host."""
    if devices[0].platform != "cpu":
        return (devices[0].memory_stats() or {}).get("bytes_limit")
    total = _meminfo().get("MemTotal")
    return None if total is None else min(total, *_cgroup_limit())


def peak_bytes(devices: Sequence[Any]) -> int:
    """The most that a device has taken so far; of a CPU the most of this process."""
    if devices[0].platform != "cpu":
        return max((device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in devices)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def describe_memory(devices: Sequence[Any]) -> str:
    """ "memory 1.2 of 23.5 GiB": the most that was taken, of what there is."""
    total = total_bytes(devices)
    return f"memory {peak_bytes(devices) / GIB:.1f}{'' if total is None else f' of {total / GIB:.1f}'} GiB"


def _available() -> int | None:
    """Bytes of the host that a process can still get, without swapping, within the limit of its cgroup."""
    available = _meminfo().get("MemAvailable")
    if available is None:
        return None
    used = _number(_CGROUP / "memory.current")
    return min(available, *(limit - (used or 0) for limit in _cgroup_limit()))


def _cgroup_limit() -> list[int]:
    limit = _number(_CGROUP / "memory.max")
    return [sys.maxsize] if limit is None else [limit]


def _meminfo() -> dict[str, int]:
    """/proc/meminfo in bytes; empty where there is none."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.replace(":", "").split() for line in lines)
    return {name: int(number) * 1024 for name, number, *_ in fields if number.isdigit()}


def _number(file: Path) -> int | None:
    """The number in a file; None where there is no file, or a word in it ("max")."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
