"""Runs one command with bounded output and a deadline, and says how it ended."""

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

_CHUNK = 1 << 16
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


def execute(
    command: Sequence[str],
    *,
    options: Sequence[str],
    stdin: int,
    stdout: int | None = None,
    pass_fds: Sequence[int],
    release: Callable[[], None],
    seconds: float,
    limit: int,
) -> Ended:
    """Runs bubblewrap.

    Args:
        command: the words up to and including "bwrap".
        options: bubblewrap's options and the program's words.
        stdin, stdout: file descriptors of the program; stdout=None to read what it writes.
        pass_fds: file descriptors that the options name.
        release: called once the process has them, to close all of these.
        seconds: wall time, less what was spent in line for a processor, after which everything is killed.
        limit: bytes of stdout, and of stderr, after which everything is killed.
    """
    start = time.monotonic()
    status_read, status_write = os.pipe()
    try:
        process = subprocess.Popen(
            [*command, "--json-status-fd", str(status_write), *options],
            stdin=stdin,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE,
            pass_fds=[*pass_fds, status_write],
            env={},
            bufsize=0,
        )
    except BaseException:
        os.close(status_read)
        raise
    finally:
        os.close(status_write)
        release()
    assert process.stderr is not None
    with process, os.fdopen(status_read, "rb", buffering=0) as status, contextlib.ExitStack() as stack:
        limits = {status: _CHUNK, process.stderr: limit}
        if process.stdout is not None:
            limits[process.stdout] = limit
        watch = _Watch(process, status, limits, stack)
        try:
            outcome, read = watch.drain(seconds)
        finally:
            watch.kill()
    code = _report(bytes(read[status]), "exit-code")
    if outcome == "exit" and code is None:
        outcome = "sandbox"
    printed = bytes(read[process.stdout]) if process.stdout is not None else b""
    return Ended(outcome, code or 0, printed, bytes(read[process.stderr]), time.monotonic() - start)


class _Watch:
    """Reads the pipes of a sandbox until they are closed and its first process, and so all of it, is gone."""

    def __init__(self, process: subprocess.Popen, status: BinaryIO, limits: dict, stack: contextlib.ExitStack):
        self._process, self._status, self._limits, self._stack = process, status, limits, stack
        self._first: int | None = None  # pidfd of process 1 in the sandbox
        self._pids = [process.pid]
        self._selector = stack.enter_context(selectors.DefaultSelector())

    def kill(self) -> None:
        self._process.kill()
        if self._first is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first, signal.SIGKILL)

    def drain(self, seconds: float) -> tuple[str, dict]:
        """The reason and what was read from each pipe. A time when nothing at all ran (suspension), or when the program stood
        in line for a processor (a busy machine), does not count."""
        outcome, left, last, excused = "exit", seconds, time.monotonic(), 0.0
        parts = {pipe: bytearray() for pipe in self._limits}
        for pipe in parts:
            self._selector.register(pipe, selectors.EVENT_READ)
        while self._selector.get_map():
            ready = self._selector.select(max(0.0, min(left, _TICK)))
            now = time.monotonic()
            left, last = left - min(now - last, 2 * _TICK), now
            ending = outcome
            for key, _ in ready:
                if key.fd == self._first:
                    self._selector.unregister(key.fd)
                    with contextlib.suppress(ChildProcessError):  # a child only where this is the container's process 1
                        os.waitid(os.P_PIDFD, key.fd, os.WEXITED | os.WNOHANG)
                elif not (chunk := os.read(key.fd, _CHUNK)):
                    self._selector.unregister(key.fileobj)
                else:
                    room = self._limits[key.fileobj] - len(parts[key.fileobj])
                    parts[key.fileobj] += chunk[:room]
                    ending = "output" if len(chunk) > room else ending
            self._find_first(parts[self._status])
            if left <= 0.0 and ending == outcome == "exit":
                waited = self._waited()
                left, excused = left + waited - excused, waited
            if left <= 0.0 and ending == "exit":
                ending = "time"
            elif left <= 0.0:
                raise RuntimeError(f"the kernel did not end a killed program within {_GONE_SECONDS:.0f} s")
            if ending != outcome == "exit":
                outcome, left = ending, _GONE_SECONDS
                self.kill()
        return outcome, parts

    def _waited(self) -> float:
        """Seconds that bubblewrap's processes and the program's first thread have stood in line for a processor."""
        total = 0
        with contextlib.suppress(OSError):  # one of them is gone
            last = self._pids[-1]
            program = Path(f"/proc/{last}/task/{last}/children").read_text().split() if len(self._pids) > 1 else []
            for pid in (*self._pids, *program[:1]):
                total += int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
        return total / 1e9

    def _find_first(self, state: bytearray) -> None:
        pid = _report(bytes(state), "child-pid") if self._first is None else None
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                self._first = os.pidfd_open(pid)
                self._pids.append(pid)
                self._stack.callback(os.close, self._first)
                self._selector.register(self._first, selectors.EVENT_READ)


def _report(state: bytes, name: str) -> int | None:
    """A number in bubblewrap's report, a JSON object a line; None where there is none."""
    for line in state.splitlines():
        try:
            number = json.loads(line).get(name)
        except ValueError:  # cut short: bubblewrap was killed, or has not yet written all of it
            continue
        if number is not None:
            return int(number)
    return None
