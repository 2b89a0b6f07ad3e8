import io
import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from r1jax.workdir.metrics import CompletionsWriter, MetricsWriter
from r1jax.workdir.progress import Progress


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def without_times(workdir):
    return [{name: value for name, value in row.items() if name != "time"} for row in rows(workdir)]


def run(workdir, first, last):
    """A loop that logs a row an update, evaluates every third before it saves, and once at the start."""
    workdir.mkdir(exist_ok=True)
    with MetricsWriter(workdir, resume_step=first) as metrics:
        completions = CompletionsWriter(workdir, resume_step=first)
        if first == 0:
            metrics.write(0, {"eval/pass@1": 0.0})
        for step in range(first + 1, last + 1):
            metrics.write(step, {"reward": step / 10})
            completions.write(step, [{"completion": f"answer {step}", "reward": step / 10}])
            if step % 3 == 0:
                metrics.write(step, {"eval/pass@1": step / 100})
                completions.write(step, [{"completion": "held out"}], split="heldout")


def test_resumed_equals_uninterrupted(tmp_path):
    run(tmp_path / "whole", 0, 9)
    run(tmp_path / "resumed", 0, 8)
    with (tmp_path / "resumed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "rew')  # killed while writing
    run(tmp_path / "resumed", 6, 9)
    assert without_times(tmp_path / "resumed") == without_times(tmp_path / "whole")
    assert len(rows(tmp_path / "whole")) == 13
    for file in sorted((tmp_path / "whole" / "completions").iterdir()):
        assert (tmp_path / "resumed" / "completions" / file.name).read_text() == file.read_text()
    names = sorted(file.name for file in (tmp_path / "resumed" / "completions").iterdir())
    assert names[:2] == ["heldout_000003.jsonl", "heldout_000006.jsonl"] and names[-1] == "update_000009.jsonl"
    assert len(names) == 12
    times = [row["time"] for row in rows(tmp_path / "resumed")]
    assert times == sorted(times)


def test_restart_before_the_first_checkpoint(tmp_path):
    run(tmp_path / "whole", 0, 4)
    run(tmp_path / "resumed", 0, 2)
    run(tmp_path / "resumed", 0, 4)
    assert without_times(tmp_path / "resumed") == without_times(tmp_path / "whole")


def test_rows_are_there_at_once_and_plain(tmp_path):
    with MetricsWriter(tmp_path, resume_step=0) as metrics:
        metrics.write(
            np.int64(1),
            {"a": jnp.float32(0.5), "b": jnp.int32(3), "c": np.float32(2), "d": True, "e": jnp.bfloat16(1.5), "f": 7},
        )
        metrics.write(2, {"nan": jnp.float32(np.nan), "inf": np.inf})
        first, second = rows(tmp_path)
    assert first.pop("time") >= 0
    assert first == {"step": 1, "a": 0.5, "b": 3, "c": 2.0, "d": True, "e": 1.5, "f": 7}
    assert second["nan"] is None and second["inf"] is None


@pytest.mark.parametrize("value", ["text", np.zeros(2), None, 1j])
def test_metric_that_is_no_number(tmp_path, value):
    with (
        MetricsWriter(tmp_path, resume_step=0) as metrics,
        pytest.raises(TypeError, match="metric 'reward' must be a scalar number"),
    ):
        metrics.write(1, {"reward": value})


def test_damaged_row_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 0.1}\nnonsense\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2 is no metrics row: b'nonsense"):
        MetricsWriter(tmp_path, resume_step=5)


def test_a_row_is_a_line_whatever_its_names_hold_and_wherever_the_file_was_cut(tmp_path):
    name = "rewards/one\u2028two\x85 中/mean"
    whole = [json.dumps({"step": step, "time": 0.1, name: 1.0}, ensure_ascii=False) + "\n" for step in (1, 2)]
    cut = whole[1].encode()
    (tmp_path / "metrics.jsonl").write_bytes("".join(whole).encode() + cut[: cut.index("中".encode()) + 1])
    MetricsWriter(tmp_path, resume_step=1).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole[0].encode()


def events(workdir):
    """(step, tag, value) of all scalars, by TensorBoard's record format: length, crc, event, crc."""
    found = []
    for file in sorted((workdir / "tensorboard").glob("events.*")):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (size,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + size])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            at += size + 16
    return found


def test_tensorboard_has_the_same_figures(tmp_path):
    with MetricsWriter(tmp_path, resume_step=0) as metrics:
        metrics.write(1, {"reward": 0.25, "completions/mean_length": 12, "kl": np.nan})
    assert [event for event in events(tmp_path) if event[1] != "time"] == [
        (1, "reward", 0.25),
        (1, "completions/mean_length", 12.0),
    ]


def test_a_progress_line_that_was_given_stays_open(tmp_path):
    stream = io.StringIO()
    progress = Progress(stream=stream)
    with MetricsWriter(tmp_path, resume_step=4, total=10, progress=progress) as metrics:
        metrics.write(5, {"reward": 0.5, "time/step": 1.0})
    progress.update({"step": 10, "eval/pass@1": 0.25})
    progress.close()
    assert stream.getvalue() == "update 5/10  reward 0.5  0:00\nupdate 10  held-out pass@1 0.25\n"


def test_completions_rows(tmp_path):
    writer = CompletionsWriter(tmp_path, resume_step=0)
    writer.write(12, [{"completion": "二加二", "rewards": {"a": np.float32(1), "b": np.nan}, "ids": np.array([1, 2])}])
    (file,) = (tmp_path / "completions").iterdir()
    assert file.name == "update_000012.jsonl"
    text = file.read_text()
    assert "二加二" in text
    assert json.loads(text) == {
        "step": 12,
        "split": "train",
        "completion": "二加二",
        "rewards": {"a": 1.0, "b": None},
        "ids": [1, 2],
    }
    writer.write(13, [{"errors": {"judge": "bad \ud800"}}])  # half a character from elsewhere
    row = json.loads((tmp_path / "completions" / "update_000013.jsonl").read_text())
    assert row["errors"] == {"judge": "bad ?"}
