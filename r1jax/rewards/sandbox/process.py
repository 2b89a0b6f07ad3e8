"""Waits for a sandbox to end, and says what bubblewrap reports of it."""

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path

_TICK = 0.5  # seconds
_GONE_SECONDS = 10.0  # how long the kernel may take to end what was killed


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended."""

    reason: str  # "exit", "time", "output", or "sandbox": the program was not started or its end is not known
    code: int  # exit code of the program; 128 + n where signal n ended it; only for reason "exit"
    stdout: bytes  # at most the limit
    stderr: bytes  # at most the limit; bubblewrap's own message for reason "sandbox"
    seconds: float  # wall time


def wait_for(process: subprocess.Popen, report: int, *, seconds: float) -> bool:
    """Waits until bubblewrap and all in it are gone; False where all were killed after so many seconds of wall time.

    A time when nothing at all ran (suspension), or when the program stood in line for a processor (a busy machine), does not
    count.

    Args:
        report: the file that bubblewrap reports to.
    """
    in_time, left, last, excused = True, seconds, time.monotonic(), 0.0
    try:
        while not _is_gone(process.pid, max(0.0, min(left, _TICK))):
            now = time.monotonic()
            left, last = left - min(now - last, 2 * _TICK), now
            if left <= 0.0 and in_time:
                waited = _waited(process.pid, report)
                left, excused = left + waited - excused, waited
            if left <= 0.0:
                if not in_time:
                    raise RuntimeError(f"the kernel did not end a killed program within {_GONE_SECONDS:.0f} s")
                in_time, left = False, _GONE_SECONDS
                _kill(process, report)
    except BaseException:
        _kill(process, report)
        raise
    process.wait()
    first = read_report(report, "child-pid")
    if first is not None and not _is_gone(first, _GONE_SECONDS):
        raise RuntimeError(f"process {first} of a sandbox did not end with it within {_GONE_SECONDS:.0f} s")
    return in_time


def read_report(report: int, name: str) -> int | None:
    """A number in bubblewrap's report, a JSON object a line; None where there is none."""
    for line in os.pread(report, 1 << 16, 0).splitlines():
        with contextlib.suppress(ValueError):  # cut short: bubblewrap was killed, or has not yet written all of it
            if name in (entry := json.loads(line)):
                return int(entry[name])
    return None


def _kill(process: subprocess.Popen, report: int) -> None:
    """Kills the first process in the sandbox and so all of it, of which bubblewrap takes note and ends; or bubblewrap itself."""
    first = read_report(report, "child-pid")
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid if first is None else first, signal.SIGKILL)


def _is_gone(pid: int, seconds: float) -> bool:
    """Whether a process ends within some seconds; one that is not there has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(1e3 * seconds))
    finally:
        os.close(descriptor)


def _waited(pid: int, report: int) -> float:
    """Seconds that bubblewrap's processes and the program's first thread have stood in line for a processor."""
    total = 0
    with contextlib.suppress(OSError):  # one of them is gone
        first = read_report(report, "child-pid")
        pids = [pid] if first is None else [pid, first]
        if first is not None:
            pids += Path(f"/proc/{first}/task/{first}/children").read_text().split()[:1]
        for each in pids:
            total += int(Path(f"/proc/{each}/schedstat").read_text().split()[1])
    return total / 1e9
