"""Daemon threads for work that goes on while the device computes, and for calls that may never end.

A daemon does not keep an interrupted program from ending, as a `ThreadPoolExecutor`'s threads would. An idle one is
ended before the interpreter is.
"""

import atexit
import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

_PATIENCE = 2.0
"""Seconds that the end of the program waits for a job under way."""


class Background:
    """One thread that does one thing at a time. It starts with the first job."""

    def __init__(self, name: str):
        self._name = name
        self._jobs: queue.SimpleQueue | None = None
        self._lock = threading.Lock()  # any thread may give jobs and give up

    def run(self, function: Callable[..., Any], *arguments: Any) -> Future:
        """Calls the function in the thread, after all that was given before."""
        future: Future = Future()
        with self._lock:
            if self._jobs is None:
                self._jobs = queue.SimpleQueue()
                thread = threading.Thread(target=_work, args=(self._jobs,), name=self._name, daemon=True)
                thread.start()
                atexit.register(_end, self._jobs, thread)
            self._jobs.put((future, function, arguments))
        return future

    def give_up(self) -> None:
        """Cancels all that has not begun. A call under way, which may never end, keeps its thread; later ones get a new one."""
        with self._lock:
            jobs, self._jobs = self._jobs, None
        if jobs is not None:
            with contextlib.suppress(queue.Empty):
                while True:
                    future, _, _ = jobs.get_nowait()
                    future.cancel()
            jobs.put(None)

    @contextlib.contextmanager
    def or_give_up(self) -> Iterator[None]:
        """Gives up where what is done in it raises: in a notebook the program outlives an interrupted run."""
        try:
            yield
        except BaseException:
            self.give_up()
            raise


def _end(jobs: queue.SimpleQueue, thread: threading.Thread) -> None:
    jobs.put(None)
    thread.join(timeout=_PATIENCE)


def _work(jobs: queue.SimpleQueue) -> None:
    while (job := jobs.get()) is not None:
        future, function, arguments = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)
        del job, future, function, arguments  # while waiting nothing is kept alive
