"""Ctrl-C and SIGTERM end a run cleanly: what is under way is finished and saved, nothing new is begun.

Of several processes a signal to one ends all, at the same place.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from contextvars import ContextVar
from types import FrameType

from r1jax.processes import any_process

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A signal asked the run to end; what was done is saved."""


class Stop:
    """Whether the run was asked to end."""

    requested = False  # in this process

    def agreed(self) -> bool:
        """Whether the run was asked to end, in any process; to be called by all of them where it can."""
        self.requested = any_process(self.requested)
        return self.requested

    def check(self) -> None:
        """Call it where the run can end: between updates, between batches of an evaluation. Raises Stopped if asked to."""
        if self.agreed():
            raise Stopped

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: the first signal asks, the second raises KeyboardInterrupt."""
        name = signal.Signals(number).name
        if self.requested:
            raise KeyboardInterrupt(f"second {name}")
        self.requested = True
        message = f"\n{name}: ending after the step under way, all is saved; again to quit at once"
        print(message, file=sys.stderr, flush=True)


_open: ContextVar[Stop | None] = ContextVar("open stop", default=None)


@contextlib.contextmanager
def graceful_stop():
    """A context whose Stop is asked by the first SIGINT or SIGTERM; a second one raises KeyboardInterrupt.

        with graceful_stop() as stop:
            while step < total:
                stop.check()
                ...

    Inside another such context it is that one's Stop, so a signal that comes at the end of a stage still ends the run
    of stages around it. Handlers are put back on the way out of the outermost. In a thread other than the main one
    signals cannot be caught: nothing is installed.
    """
    outer = _open.get()
    if outer is not None:
        yield outer
        return
    stop = Stop()
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, stop.handle) for number in _SIGNALS} if is_main else {}
    token = _open.set(stop)
    try:
        yield stop
    finally:
        _open.reset(token)
        for number, handler in before.items():
            signal.signal(number, handler)
