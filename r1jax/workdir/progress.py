"""The line that a person watches: update n/N, reward, length, tokens/s, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

# Metric -> what the line calls it, in the order of the line.
FIGURES = {
    "reward": "reward",
    "loss": "loss",
    "kept_share": "kept",
    "completions/mean_length": "length",
    "eval/pass@1": "held-out pass@1",
    "eval/cons@16": "cons@16",
    "eval/mean_length": "held-out length",
    "tokens_per_second/generate": "tok/s",
    "tokens_per_second/train": "tok/s trained",
}


class Progress:
    """A live line on a terminal; elsewhere (a CI log, a file) a plain line every so many seconds.

    A row without "time/step" is an evaluation by itself: its figures are printed as a line that stays.

    Args:
      total: updates of the whole run.
      start: updates done before this start of it; time left is reckoned from this start's pace.
      every_seconds: between plain lines; the first and the last update get one in any case.
      stream: where it goes; the default is standard output.
    """

    def __init__(self, total: int, *, start: int = 0, every_seconds: float = 10.0, stream: TextIO | None = None):
        self._total, self._start, self._every_seconds = total, start, every_seconds
        self._stream = sys.stdout if stream is None else stream
        self._started = time.monotonic()
        self._last_line = -float("inf")
        self._live: Live | None = None
        if self._stream.isatty():
            first = Text(f"update {start}/{total}  compiling")
            live = Live(first, console=Console(file=self._stream), auto_refresh=False)
            live.start(refresh=True)
            self._live = live

    def update(self, row: Mapping[str, Any]) -> None:
        """Shows a metrics row: its "step" is the number of updates done."""
        figures = [f"{label} {_number(row[name])}" for name, label in FIGURES.items() if row.get(name) is not None]
        if "time/step" not in row:
            if figures:
                self._print("  ".join([f"update {row['step']}", *figures]))
            return
        now = time.monotonic()
        seconds, done = now - self._started, row["step"] - self._start
        left = _clock(seconds / done * (self._total - row["step"])) if done > 0 else "?"
        line = "  ".join([f"update {row['step']}/{self._total}", *figures, f"{_clock(seconds)}, {left} left"])
        if self._live is not None:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
        elif row["step"] >= self._total or now - self._last_line >= self._every_seconds:
            self._print(line)
            self._last_line = now

    def close(self) -> None:
        """Ends the live line; the last state of it stays."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, line: str) -> None:
        if self._live is not None:
            self._live.console.print(Text(line))
        else:
            print(line, file=self._stream, flush=True)


def _number(value: float) -> str:
    """Three digits, and whole numbers from a hundred on: 0.413, 37.2, 1234."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _clock(seconds: float) -> str:
    """75 -> "1:15", 3675 -> "1:01:15"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
