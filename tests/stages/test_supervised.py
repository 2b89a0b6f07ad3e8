"""The supervised stage as a whole, on a tiny model: it learns, resumes bit for bit, and names bad configs."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from r1jax.run import load_config
from r1jax.stages import supervised
from r1jax.training.checkpoint import load_checkpoint
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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_updates": 0}, "num_updates"),
        ({"aggregation": "mean"}, "aggregation"),
        ({"template": "nothing"}, "nothing"),
        ({"data": ConfigDict({"function": "r1jax.tasks.mini_corpus:nothing", "arguments": {}})}, "nothing"),
        ({"optimizer": ConfigDict({"learning_rate": 1e-3, "schedule": "stairs"})}, "stairs"),
    ],
)
def test_bad_configs_are_named_before_compute(changes, words):
    with pytest.raises(ValueError, match=words):
        supervised.check(tiny_config(**changes))
