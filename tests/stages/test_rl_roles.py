"""The RL stage with a sampler that has a layout, or devices, of its own: the same run."""

import jax
import pytest

from r1jax.rollout.collect import Collector
from r1jax.stages import rl
from tests.stages.test_rl import tiny_config
from tests.tiny import rows_of


def short_config(**changes):
    config = tiny_config(num_updates=2, **changes)
    config.eval.update(problems=2, final_problems=2, problems_per_batch=2, samples=2, final_samples=2)
    return config


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The work directory of a run on one device."""
    workdir = tmp_path_factory.mktemp("roles") / "alone"
    rl.main(short_config(), workdir)
    return workdir


@pytest.mark.parametrize(
    ("mesh", "rollout_mesh"),
    [
        ({"fsdp": 2, "expert": 2}, {"data": 2, "tensor": 2}),
        ({"data": 2, "fsdp": 2}, {"data": 2, "tensor": 2, "first_device": 4}),
    ],
    ids=["another layout", "other devices"],
)
def test_a_phase_is_the_same(alone, tmp_path, monkeypatch, mesh, rollout_mesh):
    sampled_on = set()
    real = Collector.start

    def start(self, params, *args, **settings):
        sampled_on.update(jax.tree.leaves(params)[0].devices())
        return real(self, params, *args, **settings)

    monkeypatch.setattr(Collector, "start", start)
    rl.main(short_config(mesh=mesh, rollout_mesh=rollout_mesh), tmp_path)
    first = rollout_mesh.get("first_device", 0)
    assert sampled_on == set(jax.devices()[first : first + 4])
    for name in ("update_000002", "heldout_000000", "heldout_000002"):
        ours, single = ((w / "completions" / f"{name}.jsonl").read_text() for w in (tmp_path, alone))
        assert [row.split('"rewards"')[0] for row in ours.splitlines()] == [
            row.split('"rewards"')[0] for row in single.splitlines()
        ]  # the same texts
    for row, want in zip(rows_of(tmp_path), rows_of(alone), strict=True):
        for name, value in want.items():
            assert row[name] == pytest.approx(value, rel=2e-3, abs=2e-4), name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rollout_mesh": {"tensor": 2}}, "rollout_mesh {'tensor': 2} is of 2 devices, and the trainer has 1"),
        ({"rollout_mesh": {"tensor": 8, "first_device": 1}}, "there are 8"),
    ],
)
def test_bad_configs_are_named_before_compute(changes, words):
    with pytest.raises(ValueError, match=words):
        rl.check(short_config(**changes))
