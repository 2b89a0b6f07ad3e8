import io

from r1jax.workdir.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_where_there_is_no_terminal(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("r1jax.workdir.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = Progress(10, start=4, every_seconds=30, stream=stream)
    progress.update({"step": 4, "eval/pass@1": 0.153, "eval/mean_length": 120.0})
    for step in range(5, 11):
        now[0] += 20
        progress.update(
            {"step": step, "reward": 0.4126, "completions/mean_length": 37.21, "loss": None, "time/step": 2.0}
        )
    progress.close()
    assert stream.getvalue().splitlines() == [
        "update 4  held-out pass@1 0.153  held-out length 120",
        "update 5/10  reward 0.413  length 37.2  0:20, 1:40 left",
        "update 7/10  reward 0.413  length 37.2  1:00, 1:00 left",
        "update 9/10  reward 0.413  length 37.2  1:40, 0:20 left",
        "update 10/10  reward 0.413  length 37.2  2:00, 0:00 left",
    ]


def test_a_stage_that_samples_a_set_shows_what_it_kept():
    stream = io.StringIO()
    progress = Progress(2, stream=stream)
    progress.update({"step": 1, "kept_share": 0.25, "kept": 4, "time/step": 2.0})
    progress.close()
    assert stream.getvalue().startswith("update 1/2  kept 0.25  0:00, 0:00 left")


def test_a_row_is_of_training_by_its_time_and_by_no_figure():
    stream = io.StringIO()
    progress = Progress(12, stream=stream)
    progress.update({"step": 4, "candidates": 4, "unclear": 1, "time/step": 2.0})
    progress.update({"step": 12, "eval/loss": 0.5, "time/eval": 2.0})
    progress.update({"step": 12, "reward": 0.5, "eval/pass@1": 0.25})
    progress.close()
    assert stream.getvalue().splitlines() == [
        "update 4/12  0:00, 0:00 left",
        "update 12  reward 0.5  held-out pass@1 0.25",
    ]


def test_live_line_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    progress = Progress(4000, stream=stream)
    progress.update({"step": 1, "reward": 0.5, "tokens_per_second/generate": 1234.5, "time/step": 2.0})
    progress.update({"step": 1, "eval/pass@1": 0.25})
    progress.close()
    shown = stream.getvalue()
    assert "update 1/4000  reward 0.5  tok/s 1234" in shown
    assert "update 1  held-out pass@1 0.25\n" in shown
    assert "\x1b[" in shown and shown.endswith("\x1b[?25h")  # the cursor is back
    progress.close()
    assert stream.getvalue() == shown
