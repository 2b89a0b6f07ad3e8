"""The line that a person watches: update n/N, phase, reward, length, tokens/s, a clock, and the time left.

It never takes more than the terminal's width (80 columns in a log): figures are dropped from the right. The time left
is the median of the updates since this start times those to come, and what the evaluations to come will take. The first
update is left out, because it compiles.
"""

from __future__ import annotations

import atexit
import collections
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
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
    "eval/reward": "held-out reward",
    "eval/mean_length": "held-out length",
    "tokens_per_second/generate": "tok/s",
    "tokens_per_second/train": "tok/s trained",
}
_LOG_WIDTH = 80
_TICK_SECONDS = 0.5


class Progress:
    """A live line on a terminal; elsewhere (a CI log, a file) a plain line every so many seconds.

    A thread keeps the clock running and, in a log, prints a line when a phase lasts long. It ends with `close`.

    Args:
      every_seconds: least time between plain lines; the first and the last update and evaluations get one in any case.
      stream: where it goes; the default is standard output.
      shown: whether anything is printed; False in all processes of a run but the first.
      memory: says what was taken of how much; asked once, when the second row gives the pace, for a line of its own.
    """

    def __init__(
        self,
        *,
        every_seconds: float = 10.0,
        stream: TextIO | None = None,
        shown: bool = True,
        memory: Callable[[], str] | None = None,
    ):
        self._stream = sys.stdout if stream is None else stream
        self._every_seconds, self._memory = every_seconds, memory
        self._started = time.monotonic()
        self._last_line, self._said = self._started, ""
        self._step, self._total, self._figures = 0, None, []
        self._row_time, self._aside, self._paces = None, 0.0, collections.deque(maxlen=64)
        self._evaluations: Mapping[int, int] = {}
        self._next_evaluation = 1
        self._unit_seconds, self._left = 0.0, None  # _left: seconds, when they were reckoned, and the least
        self._name, self._done, self._of, self._phase_started = "starting", None, None, self._started
        self._live: Live | None = None
        self._closed = threading.Event()
        if not shown:
            self._closed.set()
            return
        if self._stream.isatty():
            console = Console(file=self._stream, highlight=False)
            self._live = live = Live(get_renderable=self._renderable, console=console, auto_refresh=False)
            live.start(refresh=True)
        self._thread = threading.Thread(target=self._tick_on, name="progress", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a daemon thread that prints while Python ends would abort it

    def begin(self, total: int, *, start: int = 0) -> None:
        """The updates begin: `total` of the whole run, `start` of them done before."""
        self._total, self._step = total, start
        self._next_evaluation = max(start, 1)
        self.phase("compiling")

    def expect_evaluations(self, sizes: Mapping[int, int]) -> None:
        """After which updates there will be evaluations, and what `phase("evaluating", done, size)` counts in each."""
        self._evaluations = sizes
        self._reckon()

    def phase(self, name: str, done: int | None = None, total: int | None = None) -> None:
        """Shows what is under way until the next phase or row: "sampling"; "evaluating", 3000, 8192; "" for nothing.

        Phases that evaluate have "evaluat" in their names: what they take is no part of the time of an update.
        """
        is_new = name != self._name
        if is_new:
            self._begin_phase(name)
        self._done, self._of = done, total
        self._reckon()
        if is_new or self._live is None:  # counts may come often: the thread shows them on a terminal
            self._tick()

    def update(self, row: Mapping[str, Any]) -> None:
        """Shows a metrics row: its "step" is the number of updates done. A row without "time/step" is an evaluation."""
        figures = [f"{label} {_number(row[name])}" for name, label in FIGURES.items() if row.get(name) is not None]
        is_first, step, now = self._row_time is None, row["step"], time.monotonic()
        if "time/step" not in row:
            self._done, self._next_evaluation = self._of, step + 1
            self._begin_phase("compiling" if is_first and self._total != self._step else "")
            self._reckon()
            if figures:
                self._print(_fit([f"update {step}"], figures, "", self._width()))
            return
        self._begin_phase("")
        if self._row_time is not None and step > self._step:
            self._paces.append((now - self._row_time - self._aside) / (step - self._step))
        self._row_time, self._aside, self._step, self._figures = now, 0.0, step, figures
        self._next_evaluation = max(self._next_evaluation, step)
        self._reckon()
        if self._live is not None:
            self._live.refresh()
        elif is_first or step == self._total or now - self._last_line >= self._every_seconds:
            self._print(self._line(_LOG_WIDTH))
        if self._paces and self._memory is not None and step != self._total:
            self._advise(self._memory)

    def _advise(self, memory: Callable[[], str]) -> None:
        """Says once what this start has measured: seconds of an update, time to go, memory."""
        self._memory = None
        pace, left = self._paces[-1], f", {_clock(self._left[0])} to go" if self._left else ""
        self._print(f"{pace:.3g} s an update{left}; {memory()}"[:_LOG_WIDTH])

    def close(self) -> None:
        """Ends the line; the last state of it stays on a terminal."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._thread.join()
        atexit.unregister(self.close)
        if self._live is not None:
            self._live.stop()

    def _begin_phase(self, name: str) -> None:
        """Goes over to another phase, and keeps what an evaluation took."""
        now = time.monotonic()
        if "evaluat" in self._name:
            seconds = now - self._phase_started
            self._aside += seconds
            self._unit_seconds = seconds / self._done if self._done else self._unit_seconds
        self._name, self._done, self._of, self._phase_started = name, None, None, now

    def _reckon(self) -> None:
        """Reckons the seconds left: unknown before the second row of this start."""
        self._left = None
        if self._total is None or (not self._paces and self._step < self._total):
            return
        num_updates = max(self._total - self._step, 0)
        pace = statistics.median(self._paces) if num_updates else 0.0
        units = sum(size for step, size in self._evaluations.items() if step >= self._next_evaluation)
        if "evaluat" in self._name:
            units -= self._done or 0
        seconds = pace * num_updates + self._unit_seconds * max(units, 0)
        is_updating = num_updates and "evaluat" not in self._name  # however long that takes, the others are to come
        self._left = seconds, time.monotonic(), seconds - pace if is_updating else 0.0

    def _line(self, width: int) -> str:
        now = time.monotonic()
        clock = _clock(now - self._started)
        if (left := self._left) is not None:
            seconds, since, later = left
            clock += f", {_clock(max(seconds - (now - since), later))} left"
        head = "" if self._total is None else f"update {self._step}/{self._total}"
        return _fit([head, self._phase_text()], self._figures, clock, width)

    def _phase_text(self) -> str:
        return self._name if self._of is None else f"{self._name} {self._done or 0:,} of {self._of:,}"

    def _width(self) -> int:
        return _LOG_WIDTH if self._live is None else self._live.console.width

    def _renderable(self) -> Text:
        return Text(self._line(self._width()), no_wrap=True, overflow="crop")

    def _tick(self) -> None:
        """Moves the clock of a live line; in a log says a phase that lasts long, again only when it has come further."""
        if self._closed.is_set():
            return
        if self._live is not None:
            self._live.refresh()
            return
        now, text = time.monotonic(), self._phase_text()
        lasts = min(now - self._phase_started, now - self._last_line)
        if text and text != self._said and lasts >= self._every_seconds:
            self._said = text
            self._print(self._line(_LOG_WIDTH))

    def _tick_on(self) -> None:
        while not self._closed.wait(_TICK_SECONDS):
            try:
                self._tick()
            except (OSError, ValueError):  # whoever read the stream is gone; the run goes on
                return

    def _print(self, line: str) -> None:
        if self._closed.is_set():
            return
        self._last_line = time.monotonic()
        if self._live is not None:
            self._live.console.print(Text(line, no_wrap=True, overflow="crop"))
        else:
            self._stream.write(line + "\n")
            self._stream.flush()


def _fit(head: Sequence[str], figures: Sequence[str], clock: str, width: int) -> str:
    """One line of at most `width` columns: figures that do not fit are dropped from the right, then the time left."""
    shorter = [(figures[:count], clock) for count in range(len(figures), -1, -1)]
    for kept, time_text in [*shorter, ([], clock.partition(",")[0])]:
        line = "  ".join(filter(None, [*head, *kept, time_text]))
        if len(line) <= width:
            break
    return line[:width]


def _number(value: float) -> str:
    """Three digits, and whole numbers from a hundred on: 0.413, 37.2, 1234."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _clock(seconds: float) -> str:
    """75 -> "1:15", 3675 -> "1:01:15"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
