"""Waits for a sandbox to end, and says how it did."""

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
_NOT_PYTHON = ("SyntaxError", "IndentationError", "TabError")
_GONE_SECONDS = 10.0  # how long the kernel may take to end what was killed


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a run ended.

    status: "ok" (exit code 0); "exit" (another code); "signal" (ended by one, or by a code from 129 to 192); "time",
        "cpu", "memory", "output" (beyond that limit; "memory" as the program's own last words tell); "compile" (never
        ran); "sandbox" (no fault of the program's: bubblewrap failed).
    """

    status: str
    printed: bytes  # on stdout, cut at the limit
    errors: bytes  # on stderr, likewise; the compiler's for "compile", bubblewrap's for "sandbox"
    seconds: float = dataclasses.field(compare=False)  # wall time

    @property
    def stdout(self) -> str:
        """What it printed, undecodable bytes replaced."""
        return self.printed.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """As ``stdout``."""
        return self.errors.decode("utf-8", "replace")


def status_of(code: int | None, errors: bytes, *, was_killed: bool) -> str:
    """The status of a run that kept to its wall time and output: by its exit code (None: not known) and last words.

    was_killed: where SIGKILL ended it, the limit on CPU time may have sent it.
    """
    if code is None:
        return "sandbox"
    if code == 0:
        return "ok"
    number = code - 128
    if number == signal.SIGXCPU or (number == signal.SIGKILL and was_killed):
        return "cpu"
    last_words = errors[-4096:].decode("utf-8", "replace").strip()
    if "MemoryError" in last_words or "std::bad_alloc" in last_words:
        return "memory"
    if last_words.rpartition("\n")[2].startswith(_NOT_PYTHON) and "Traceback (most recent call last)" not in last_words:
        return "compile"
    return "signal" if 0 < number <= 64 else "exit"


def wait_for(process: subprocess.Popen, report: int, *, seconds: float) -> bool:
    """Waits until bubblewrap and all in it are gone; False where all were killed after so many seconds of wall time.

    A time when nothing at all ran (suspension), or when the program stood in line for a processor (a busy machine),
    does not count.

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
