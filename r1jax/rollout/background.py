"""One background thread, for work that goes on while the device computes.

It is a daemon: a reward function that hangs does not keep an interrupted program from ending, as a
`ThreadPoolExecutor`'s would. In a notebook, where the program outlives its runs, what is no longer waited for is given
up (`or_give_up`), so that the next run does not stand in line behind a reward that hangs.
"""

import atexit
import contextlib
import functools
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

_PATIENCE = 2.0  # seconds that the end of the program waits for a job under way


def run_in_background(function: Callable[..., Any], *arguments: Any) -> Future:
    """Calls the function in the background thread, after all that was given before. One thing at a time."""
    future: Future = Future()
    _jobs().put((future, function, arguments))
    return future


@contextlib.contextmanager
def or_give_up() -> Iterator[None]:
    """Where what is done in it raises (an interrupt, say), all that was given and has not begun is cancelled.

    A call under way, which may never end, keeps its thread; calls that come later get a new one.
    """
    try:
        yield
    except BaseException:
        if _jobs.cache_info().currsize:
            jobs = _jobs()
            _jobs.cache_clear()
            with contextlib.suppress(queue.Empty):
                while True:
                    future, _, _ = jobs.get_nowait()
                    future.cancel()
            jobs.put(None)
        raise


@functools.cache
def _jobs() -> queue.SimpleQueue:
    jobs: queue.SimpleQueue = queue.SimpleQueue()
    thread = threading.Thread(target=_work, args=(jobs,), name="rewards", daemon=True)
    thread.start()
    atexit.register(_end, jobs, thread)
    return jobs


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
