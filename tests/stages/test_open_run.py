import json
import os
import signal
import sys
import time
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import pytest

from r1jax.specs.reader import read
from r1jax.specs.stages import ClaimsSpec, SupervisedSpec
from r1jax.stages.open_run import open_run
from r1jax.training.checkpoint import checkpoint_steps
from r1jax.workdir.directory import WorkdirError, read_summary
from r1jax.workdir.stop import Stopped


def make_spec(**values):
    values = {"init": {"kind": "hf", "path": "/models/a"}, "data": {"path": "/data/a"}, "num_updates": 6} | values
    return read(
        SupervisedSpec, {"stage": "supervised", "checkpoint_every": 2, "log_every": 1, "mesh": {"data": 2}} | values
    )


def main(spec, workdir, *, interrupt_after=None):
    """A stage that counts."""
    with open_run(spec, workdir) as run:
        run.state = {"step": jnp.zeros((), jnp.int32), "sum": jnp.zeros((8,))}
        run.restore(total=spec.num_updates, streams={}, seen=[])
        for updates in run.loop():
            run.state = {"step": run.state["step"] + 1, "sum": run.state["sum"] + updates}
            run.kept["seen"] = [*run.kept["seen"], updates + 1]
            run.log({"loss": float(run.state["sum"][0])}, every=spec.log_every)
            if updates + 1 == interrupt_after:
                os.kill(os.getpid(), signal.SIGTERM)
        return run.mark_done(run.kept | {"sum": float(run.state["sum"][0])})


def rows(workdir):
    return [
        {**json.loads(line), "time": 0, "time/step": 0} for line in (workdir / "metrics.jsonl").read_text().splitlines()
    ]


def test_a_stage_is_stopped_goes_on_is_done_and_is_made_longer(tmp_path, capsys):
    whole = main(make_spec(), tmp_path / "whole")
    assert whole["seen"] == [1, 2, 3, 4, 5, 6] and whole["sum"] == 15 and whole["seed"] == 0
    with pytest.raises(Stopped):
        main(make_spec(), tmp_path / "w", interrupt_after=3)
    assert checkpoint_steps(tmp_path / "w") == [2, 3]
    begin = time.monotonic()
    done = main(make_spec(keep_checkpoints=1), tmp_path / "w")
    assert done["wall_seconds"] > time.monotonic() - begin - 1 and done | whole == whole | {"sum": 15}
    assert rows(tmp_path / "w") == rows(tmp_path / "whole")
    assert read_summary(tmp_path / "w", make_spec()) == done
    assert (tmp_path / "w" / "lineage.json").exists()
    longer = make_spec(num_updates=8)
    assert read_summary(tmp_path / "w", longer) is None
    assert main(longer, tmp_path / "w")["seen"] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert rows(tmp_path / "w")[:6] == rows(tmp_path / "whole")
    changes = [json.loads(line) for line in (tmp_path / "w" / "changes.jsonl").read_text().splitlines()]
    assert [change["update"] for change in changes] == [3, 6]
    assert changes[1]["changes"] == {"keep_checkpoints": [1, 2], "num_updates": [6, 8]}
    assert "w goes on with other settings: keep_checkpoints 1 -> 2, num_updates 6 -> 8" in capsys.readouterr().out


def test_seconds_of_earlier_starts_count(tmp_path, monkeypatch):
    with pytest.raises(Stopped):
        main(make_spec(), tmp_path, interrupt_after=3)
    (record,) = (tmp_path / "checkpoints" / "3" / "record").glob("*.json")
    saved = json.loads(record.read_text())
    record.write_text(json.dumps(saved | {"extra": saved["extra"] | {"wall_seconds": 1000.0}}))
    assert 1000 < main(make_spec(), tmp_path)["wall_seconds"] < 1100


def test_what_is_opened_is_closed_after_an_error(tmp_path):
    before = signal.getsignal(signal.SIGTERM), jax.sharding.get_mesh()
    with pytest.raises(ZeroDivisionError), open_run(make_spec(), tmp_path) as run:
        assert jax.sharding.get_mesh().shape["data"] == 2
        raise ZeroDivisionError
    assert (signal.getsignal(signal.SIGTERM), jax.sharding.get_mesh()) == before
    assert run.progress._closed.is_set()
    with open_run(make_spec(), tmp_path):
        pass


def test_loggers_get_the_metrics_of_a_stage(tmp_path, monkeypatch):
    wandb = Mock()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    main(make_spec(loggers=["wandb"]), tmp_path / "w")
    logged = [call.args[0] for call in wandb.init.return_value.log.call_args_list]
    assert [(row["update"], row["loss"]) for row in logged if "loss" in row] == [
        (row["step"], row["loss"]) for row in rows(tmp_path / "w") if "loss" in row
    ]
    assert len(logged) >= 6 and wandb.init.return_value.finish.called


def test_a_stage_without_checkpoints(tmp_path):
    spec = read(
        ClaimsSpec, {"stage": "claims", "claims": [{"kind": "teaches", "claim": "a", "paper": "b", "paths": ["/c"]}]}
    )
    with open_run(spec, tmp_path) as run:
        assert run.checkpoints is None and not (tmp_path / "checkpoints").exists()
        assert run.mark_done({"held": 1, "wall_seconds": 7.0})["wall_seconds"] == 7.0
    assert json.loads((tmp_path / "summary.json").read_text()) == {"held": 1, "wall_seconds": 7.0, "seed": 0}
    with (
        pytest.raises(WorkdirError, match=r"\n  seed: 0 there, 1 now"),
        open_run(read(ClaimsSpec, {"stage": "claims", "seed": 1, "claims": spec.claims}), tmp_path),
    ):
        pass
