"""Processes that run a function on one input at a time and are killed when it takes too long or too much.

For verifiers that may hang or crash (a computer algebra system fed by a model). Each worker is a fresh interpreter that
speaks JSON lines over its pipes: nothing is forked (threads of jax live in the parent), nothing is pickled, and
``__main__`` is not run again, so it works from a notebook, a script and pytest.

Limits, per input: CPU seconds (a stuck C loop cannot hold the kernel off, and the load of the machine does not count),
wall seconds (a backstop, ten times as many), and memory of the process. The worker sets them for itself, and the kernel
ends it. A worker that was killed is replaced at the next input; one ends when its pool is closed or this process ends.

This is no sandbox: the function is trusted code, its input is not.
"""

import atexit
import contextlib
import json
import os
import queue
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from r1jax.specs.functions import load_function

_WALL_FACTOR = 10
_START_SECONDS = 120
_LATE = (-signal.SIGPROF, -signal.SIGALRM, -signal.SIGXCPU)


class WorkerError(RuntimeError):
    """The function raised, or its process died (out of memory, or killed) on this input."""


class WorkerPool:
    """Worker processes for one function, started when first needed; safe to use from several threads at once.

    Args:
        function: "module:function"; it takes and returns what JSON can hold. Importable by a fresh interpreter.
        num_workers: processes; by default one a CPU core.
        seconds: CPU seconds for one input.
        memory_mb: address space of a worker, in MiB.

    Raises:
        ValueError: a limit that is not positive, or a name of another form.
    """

    def __init__(self, function: str, *, num_workers: int | None = None, seconds: float = 5.0, memory_mb: int = 1024):
        num_workers = len(os.sched_getaffinity(0)) if num_workers is None else num_workers
        if num_workers < 1 or seconds <= 0 or memory_mb <= 0:
            raise ValueError(f"worker pool: {num_workers=}, {seconds=} and {memory_mb=} must be positive")
        if function.count(":") != 1:
            raise ValueError(f"worker pool: function {function!r} must have the form 'module:function'")
        self._function = function
        self._workers = [_Worker(function, seconds, memory_mb) for _ in range(num_workers)]
        self._is_closed = False
        self._set_idle()
        atexit.register(self.close)

    def _set_idle(self) -> None:
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self._process_id = os.getpid()
        for worker in self._workers:
            self._idle.put(worker)

    def map(self, inputs: Sequence[Any]) -> list[Any]:
        """The result for each input, in order; in place of one that failed, a ``TimeoutError`` or ``WorkerError``.

        Raises:
            RuntimeError: the pool is closed, or a worker cannot start (the message has its last words).
        """
        if os.getpid() != self._process_id:  # forked, perhaps while some were at work
            self._set_idle()
        threads = ThreadPoolExecutor(len(self._workers))
        try:
            return list(threads.map(self._run_one, inputs))
        finally:  # an interrupt from the keyboard does not wait for what is under way
            threads.shutdown(wait=False, cancel_futures=True)

    def start(self) -> None:
        """Starts all workers now and waits for them; otherwise each starts with its first input."""
        workers = [self._idle.get() for _ in self._workers]
        try:
            for step in (_Worker.launch, _Worker.wait_until_ready):
                for worker in workers:
                    step(worker)
        finally:
            for worker in workers:
                self._idle.put(worker)

    def close(self) -> None:
        """Ends the workers that are idle, and those at work as soon as their input is done."""
        self._is_closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().kill()
        atexit.unregister(self.close)

    def _run_one(self, value: Any) -> Any:
        if self._is_closed:
            raise RuntimeError(f"worker pool of {self._function!r} is closed")
        worker = self._idle.get()
        try:
            return worker.run(value)
        finally:
            if self._is_closed:
                worker.kill()
            self._idle.put(worker)


class _Worker:
    """One process at a time. Every method is called by one thread at a time."""

    def __init__(self, function: str, seconds: float, memory_mb: int):
        self._arguments = function, seconds, memory_mb
        self._process: Any = None
        self._process_id = 0  # who started it: a forked child must not use it
        self._is_ready = False

    def launch(self) -> None:
        """Starts its process where it has none that lives."""
        if self._process_id == os.getpid() and self._process.poll() is None:
            return
        self.kill()
        root = str(Path(__file__).resolve().parent.parent.parent)
        paths = [root, *(path or os.getcwd() for path in sys.path)]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "r1jax.rewards.workers", *map(str, self._arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # an interrupt from the keyboard is this process's business
        )
        self._process_id, self._is_ready = os.getpid(), False

    def wait_until_ready(self) -> None:
        if self._is_ready:
            return
        if not self._process.stdout.readline():
            last = self._process.stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
            self.kill()
            raise RuntimeError(f"a worker for {self._arguments[0]!r} cannot start: {last or 'no answer'}")
        self._process.stderr.close()
        self._is_ready = True

    def run(self, value: Any) -> Any:
        """The function's result, or the exception that tells why there is none."""
        self.launch()
        self.wait_until_ready()
        function, seconds, _ = self._arguments
        line = b""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(value).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if line.endswith(b"\n"):
            answer = json.loads(line)
            return answer["result"] if "result" in answer else WorkerError(f"{function}: {answer['error']}")
        if self._process.wait() in _LATE:
            return TimeoutError(f"{function} took more than {seconds:g} s")
        return WorkerError(f"{function}: its process ended with status {self._process.returncode}")

    def kill(self) -> None:
        if self._process_id != os.getpid():
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):  # what could not be written
                pipe.close()


def _serve(path: str, seconds: float, memory_mb: int) -> None:
    """The worker's side: one JSON line in, one out, until the input ends."""
    limit = memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(kind, signal.SIG_DFL)  # which ends the process
    signal.alarm(_START_SECONDS)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the function prints is no answer
    function = load_function(path)
    signal.alarm(0)
    answers.write(b"{}\n")
    answers.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, _WALL_FACTOR * seconds)
        try:
            answer = {"result": function(json.loads(line))}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    _serve(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
