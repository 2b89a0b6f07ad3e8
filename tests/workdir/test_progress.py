import io
import os
import pty
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from r1jax.workdir.progress import Progress, _clock

REPOSITORY = Path(__file__).parents[2]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """[seconds], which the tests move; the thread ticks so rarely that it never does."""
    now = [100.0]
    monkeypatch.setattr("r1jax.workdir.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr("r1jax.workdir.progress._TICK_SECONDS", 1000.0)
    return now


@pytest.fixture
def log():
    return io.StringIO()


@pytest.fixture
def progress(clock, log):
    with_log = Progress(stream=log)
    yield with_log
    with_log.close()


def row(step, **figures):
    return {"step": step, "reward": 0.4126, "completions/mean_length": 37.21, "loss": None, "time/step": 2.0} | figures


def test_plain_lines_where_there_is_no_terminal(clock, log):
    progress = Progress(every_seconds=30, stream=log)
    progress.begin(10, start=4)
    progress.update({"step": 4, "eval/pass@1": 0.153, "eval/mean_length": 120.0})
    for step in range(5, 11):
        clock[0] += 20 if step > 5 else 50  # the first one compiles
        progress.update(row(step))
    progress.close()
    assert log.getvalue().splitlines() == [
        "update 4  held-out pass@1 0.153  held-out length 120",
        "update 5/10  reward 0.413  length 37.2  0:50",
        "update 7/10  reward 0.413  length 37.2  1:30, 1:00 left",
        "update 9/10  reward 0.413  length 37.2  2:10, 0:20 left",
        "update 10/10  reward 0.413  length 37.2  2:30, 0:00 left",
    ]


def test_what_was_measured_is_said_once(clock, log):
    """With the second row of this start, which gives the pace without the compilation."""
    asked = []
    progress = Progress(every_seconds=1000, stream=log, memory=lambda: asked.append(1) or "memory 1.2 of 23.5 GiB")
    progress.begin(40)
    for step in (2, 4, 6):
        clock[0] += 30 if step == 2 else 5
        progress.update(row(step))
    progress.close()
    assert log.getvalue().splitlines() == [
        "update 2/40  reward 0.413  length 37.2  0:30",
        "2.5 s an update, 1:30 to go; memory 1.2 of 23.5 GiB",
    ]
    assert len(asked) == 1


def test_a_run_that_is_over_is_given_no_advice(clock, log):
    progress = Progress(stream=log, memory=lambda: "memory")
    progress.begin(2)
    for step in (1, 2):
        clock[0] += 5
        progress.update(row(step))
    progress.close()
    assert "memory" not in log.getvalue()


def test_a_stage_that_samples_a_set_shows_what_it_kept(progress, log):
    progress.begin(2)
    progress.update({"step": 1, "kept_share": 0.25, "kept": 4, "time/step": 2.0})
    assert log.getvalue() == "update 1/2  kept 0.25  0:00\n"


def test_a_row_is_of_training_by_its_time_and_by_no_figure(progress, log):
    progress.begin(12)
    progress.update({"step": 4, "candidates": 4, "unclear": 1, "time/step": 2.0})
    progress.update({"step": 12, "eval/loss": 0.5, "time/eval": 2.0})
    progress.update({"step": 12, "reward": 0.5, "eval/pass@1": 0.25})
    assert log.getvalue().splitlines() == ["update 4/12  0:00", "update 12  reward 0.5  held-out pass@1 0.25"]


def test_figures_are_dropped_from_the_right_until_the_line_fits(clock, progress, log):
    progress.begin(10_000, start=8000)
    many = {"tokens_per_second/generate": 1234.5, "tokens_per_second/train": 5678.9, "loss": 0.123, "kept_share": 0.5}
    progress.update(row(8001, **many))
    clock[0] += 10
    progress.update(row(8002))
    progress.phase("evaluating", 3000, 8192)
    clock[0] += 10
    progress.phase("evaluating", 3200, 8192)
    short = [progress._line(60), progress._line(20)]
    progress.update({"step": 8002, "eval/pass@1": 0.1, "eval/cons@16": 0.2, "eval/mean_length": 1e9, **many})
    lines = log.getvalue().splitlines()
    assert lines == [
        "update 8001/10000  reward 0.413  loss 0.123  kept 0.5  length 37.2  0:00",
        "update 8002/10000  reward 0.413  length 37.2  0:10, 5:33:00 left",
        "update 8002/10000  evaluating 3,200 of 8,192  reward 0.413  0:20, 5:33:00 left",
        "update 8002  loss 0.123  kept 0.5  held-out pass@1 0.1  cons@16 0.2",
    ]
    assert max(map(len, lines)) <= 80
    assert short == ["update 8002/10000  evaluating 3,200 of 8,192  0:20", "update 8002/10000  e"]


def test_time_left_leaves_out_compiling_and_counts_the_evaluations_to_come(clock, progress, log):
    progress.begin(20)
    progress.expect_evaluations({5: 10, 10: 10, 15: 10, 20: 100})

    def evaluate(name, size):
        progress.phase(name, 0, size)
        clock[0] += size  # a second each
        progress.update({"step": progress._step, "eval/pass@1": 0.5})

    def left():
        return progress._left and round(progress._left[0])

    evaluate("evaluating", 100)
    assert left() is None
    clock[0] += 500  # it compiles
    progress.update(row(1))
    assert left() is None
    clock[0] += 10
    progress.update(row(2))
    assert left() == 18 * 10 + 3 * 10 + 100
    clock[0] += 70  # a new shape
    progress.update(row(3))
    clock[0] += 10
    progress.update(row(4))
    assert left() == 16 * 10 + 3 * 10 + 100
    clock[0] += 10
    progress.update(row(5))
    progress.phase("evaluating", 0, 10)
    clock[0] += 4
    progress.phase("evaluating", 4, 10)
    assert left() == 15 * 10 + 6 + 2 * 10 + 100
    clock[0] += 6
    progress.update({"step": 5, "eval/pass@1": 0.5})
    assert left() == 15 * 10 + 2 * 10 + 100
    clock[0] += 10
    progress.update(row(6))
    assert progress._paces[-1] == 10  # the evaluation is no part of it
    assert left() == 14 * 10 + 2 * 10 + 100
    clock[0] += 1000  # a much longer update
    assert progress._line(80).endswith(f"{_clock(13 * 10 + 2 * 10 + 100)} left")
    progress.update(row(20))
    progress.phase("final evaluation", 0, 100)
    assert left() == 100
    clock[0] += 90
    progress.phase("final evaluation", 90, 100)
    assert left() == 10
    clock[0] += 4
    assert progress._line(80).endswith("0:06 left")  # it goes on between the calls
    progress.update({"step": 20, "eval/pass@1": 0.5})
    assert left() == 0


def test_a_phase_that_lasts_gets_a_line_and_one_for_each_ten_seconds_of_counting(clock, progress, log):
    progress.phase("loading")
    for seconds in (6, 6, 60, 60):
        clock[0] += seconds
        progress._tick()
    progress.begin(10)
    for done in range(0, 60, 10):
        clock[0] += 4
        progress.phase("final evaluation", done * 100, 5000)
    assert log.getvalue().splitlines() == [
        "loading  0:12",
        "update 0/10  final evaluation 3,000 of 5,000  2:28",
    ]


def test_live_line_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    progress = Progress(stream=stream)
    progress.begin(4000)
    progress.update({"step": 1, "reward": 0.5, "tokens_per_second/generate": 1234.5, "time/step": 2.0})
    progress.update({"step": 1, "eval/pass@1": 0.25})
    progress.close()
    shown = stream.getvalue()
    assert "starting  0:00" in shown and "update 0/4000  compiling  0:00" in shown
    assert "update 1/4000  reward 0.5  tok/s 1234" in shown
    assert "update 1  held-out pass@1 0.25" in shown
    assert "\x1b[" in shown and shown.endswith("\x1b[?25h")  # the cursor is back
    progress.close()
    assert stream.getvalue() == shown


def test_the_clock_runs_by_itself_and_its_thread_ends(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("r1jax.workdir.progress._TICK_SECONDS", 0.01)
    before, stream = threading.active_count(), Terminal()
    progress = Progress(stream=stream)
    deadline = time.monotonic() + 20
    while "0:01" not in stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "starting  0:01" in stream.getvalue()
    progress.close()
    assert threading.active_count() == before


def test_nothing_is_shown_by_the_other_processes(log):
    before = threading.active_count()
    progress = Progress(stream=log, shown=False)
    assert threading.active_count() == before
    progress.begin(10)
    progress.update(row(1))
    progress.update({"step": 10, "eval/pass@1": 0.5})
    progress.close()
    assert log.getvalue() == ""


SCRIPT = """
import sys, time
from r1jax.workdir import progress
progress._TICK_SECONDS = 0.001
line = progress.Progress()
line.begin(1000)
for step in range(1, 50):
    line.update({"step": step, "reward": step / 7, "time/step": 1.0, "completions/mean_length": 1e6})
    print("a print of another part") if step == 25 else time.sleep(0.005)
line.phase("evaluating", 3000, 8192)
time.sleep(0.1)
"""


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_it_fits_a_terminal_and_ends_with_a_program_that_forgets_it(columns):
    """In a pseudo-terminal: no line is longer than the terminal is wide, and the thread does not abort Python at its end."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": str(columns), "XLA_FLAGS": ""}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=REPOSITORY, env=environment, stdout=theirs, stderr=subprocess.PIPE
    ) as run:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 1 << 16)
            except OSError:  # closed at the other end
                break
        assert run.stderr and run.stderr.read() == b""
    os.close(ours)
    assert run.returncode == 0
    assert shown.endswith(b"\x1b[?25h")  # the cursor is back
    lines = shown.decode().replace("\x1b[2K", "").replace("\x1b[1A", "").replace("\x1b[?25l", "").splitlines()
    frames = [frame for line in lines for frame in line.split("\r")]
    assert any("a print of another part" in frame for frame in frames)
    assert any("evaluating 3,000 of 8,192" in frame for frame in frames)
    assert 30 < max(map(len, frames)) <= columns


def test_a_reader_that_is_gone_does_not_end_the_run(clock, monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    progress = Progress(stream=Gone())
    clock[0] += 20
    with pytest.raises(BrokenPipeError):
        progress._tick()
    progress._said = ""
    clock[0] += 20
    monkeypatch.setattr(progress._closed, "wait", lambda seconds: False)  # as if a second had passed
    progress._tick_on()
    monkeypatch.undo()
    progress.close()
