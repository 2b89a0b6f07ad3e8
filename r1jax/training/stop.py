"""Ctrl-C and SIGTERM end a run cleanly: the loop finishes its update, saves and returns."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulStop:
    """A context in which the first SIGINT or SIGTERM only sets a flag and the second raises KeyboardInterrupt.

        with GracefulStop() as stop:
            while step < total and not stop.requested:
                ...

    Handlers are put back on the way out. In a thread other than the main one signals cannot be caught: nothing is
    installed and the flag stays False.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> GracefulStop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.requested:
            raise KeyboardInterrupt(f"second {name}")
        self.requested = True
        print(f"\n{name}: saving after this update, then ending; again to quit at once", file=sys.stderr, flush=True)
