"""The supervised stage as a whole, on a tiny model: it learns, resumes bit for bit, and names bad configs."""

import json
import os
import shutil
import signal
from collections import namedtuple

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from r1jax.run import load_config
from r1jax.stages import supervised
from r1jax.training.checkpoint import load_checkpoint
from r1jax.training.stop import Stopped
from r1jax.training.workdir import WorkdirError
from tests.tiny import POLICY, rows_of


def tiny_config(**changes) -> ConfigDict:
    values = load_config("configs/zero.py").stages.base.to_dict()
    values.pop("workdir")
    config = ConfigDict(values)
    config.update(
        init=POLICY,
        documents_per_update=6, row_length=256, rows_per_microbatch=4, num_updates=6, log_every=1, checkpoint_every=2,
    )  # fmt: skip
    config.optimizer.update(warmup_steps=1)
    with config.unlocked():
        config.update(changes)
    return config.lock()


def state_of(workdir, config):
    policy, params, buffers = supervised.load_policy(config.init.to_dict(), mesh=supervised.make_mesh(), seed=0)
    state, _ = supervised.build(config, policy.model, params, buffers)
    return load_checkpoint(workdir, state)[0]


def test_learns_and_a_crashed_run_goes_on_bit_for_bit(tmp_path, monkeypatch):
    config = tiny_config()
    supervised.main(config, tmp_path / "alone")
    rows = rows_of(tmp_path / "alone")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["loss"] < rows[0]["loss"]

    real, calls = supervised.update_once, []

    def crash_in_the_fourth_update(*args, **kwargs):
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(supervised, "update_once", crash_in_the_fourth_update)
    with pytest.raises(KeyboardInterrupt):
        supervised.main(config, tmp_path / "crashed")
    monkeypatch.setattr(supervised, "update_once", real)
    supervised.main(config, tmp_path / "crashed")
    assert rows_of(tmp_path / "crashed") == rows
    jax.tree.map(
        np.testing.assert_array_equal, state_of(tmp_path / "crashed", config), state_of(tmp_path / "alone", config)
    )
    summary = json.loads((tmp_path / "crashed" / "summary.json").read_text())
    assert summary["updates"] == 6 and summary["loss"] == rows[-1]["loss"]


def test_a_signal_in_the_last_update_still_ends_the_stage_as_done_and_one_before_does_not(tmp_path, monkeypatch):
    config, real, calls = tiny_config(), supervised.update_once, []

    def update_once(*args, **kwargs):
        calls.append(None)
        if len(calls) in (3, 6):
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args, **kwargs)

    monkeypatch.setattr(supervised, "update_once", update_once)
    with pytest.raises(Stopped):
        supervised.main(config, tmp_path)
    assert len(calls) == 3 and not (tmp_path / "DONE").exists()
    assert supervised.main(config, tmp_path)["updates"] == 6
    assert len(calls) == 6 and (tmp_path / "DONE").exists()


def test_a_disk_that_cannot_hold_the_checkpoints_is_said_before_the_first_update(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 0, 68 * 10**6)  # enough for the logs
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(supervised, "update_once", None)
    with pytest.raises(WorkdirError, match=rf"{tmp_path}: needs 1\d\d MB, 68 MB are free"):
        supervised.main(tiny_config(keep_checkpoints=99), tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_updates": 0}, "num_updates"),
        ({"aggregation": "mean"}, "aggregation"),
        ({"template": "nothing"}, "nothing"),
        ({"too_long": "skip"}, "too_long='skip': must be one of raise, cut, drop"),
        ({"train": "first"}, "train='first': must be one of last, all"),
        ({"data": ConfigDict({"function": "r1jax.tasks.mini_corpus:nothing", "arguments": {}})}, "nothing"),
        ({"optimizer": ConfigDict({"learning_rate": 1e-3, "schedule": "stairs"})}, "stairs"),
        ({"optimizer": ConfigDict({"learning_rate": float("nan")})}, "learning_rate nan"),
        ({"init": ConfigDict({"path": "runs/base"})}, "init: unknown key path"),
        ({"data": ConfigDict({"functoin": "a:b"})}, "supervised: data: unknown key functoin"),
    ],
)
def test_bad_configs_are_named_before_compute(changes, words):
    with pytest.raises(ValueError, match=words):
        supervised.check(tiny_config(**changes))
