"""The RL stage with a sampler that has a layout, or devices, of its own: the same run."""

import json

import jax
import pytest

from r1jax.rollout.collect import Collector
from r1jax.stages.rl import stage as rl
from tests.stages.rl.test_stage import tiny_config
from tests.tiny import POLICY, rows_of

pytestmark = pytest.mark.usefixtures("quick_compilation")


DENSE = {"model_dim": 32, "ffn_dim": 48, "num_layers": 1, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
POLICIES = {"dense": POLICY | {"preset": "mini_llama", "model": DENSE | {"init_std": 0.2}}, "moe": POLICY}


def short_config(policy="dense", **changes):
    """One phase; evaluations of its shape, so that few programs are compiled."""
    few = {"num_updates": 2, "max_new_tokens": 8, "eval": {"samples": 4}, "init": POLICIES[policy]}
    return tiny_config(**few | changes)


@pytest.mark.parametrize(
    ("policy", "mesh", "rollout_mesh", "offload"),
    [
        ("dense", {"data": 2, "fsdp": 2}, {"data": 2, "tensor": 2, "first_device": 4}, ["reference", "optimizer"]),
        pytest.param("moe", {"fsdp": 2, "expert": 2}, {"data": 2, "tensor": 2}, [], marks=pytest.mark.slow),
    ],
    ids=["other devices", "another layout"],
)
def test_a_phase_is_that_of_one_device(tmp_path, monkeypatch, policy, mesh, rollout_mesh, offload):
    rl.main(short_config(policy), tmp_path / "alone")
    sampled_on, real = set(), Collector.start

    def start(self, params, *args, **settings):
        sampled_on.update(jax.tree.leaves(params)[0].devices())
        return real(self, params, *args, **settings)

    monkeypatch.setattr(Collector, "start", start)
    rl.main(short_config(policy, mesh=mesh, rollout_mesh=rollout_mesh, offload=offload), tmp_path / "roles")
    first = rollout_mesh.get("first_device", 0)
    assert sampled_on == set(jax.devices()[first : first + 4])

    def texts(run, name):
        lines = (tmp_path / run / "completions" / f"{name}.jsonl").read_text().splitlines()
        return [(row["prompt"], row["completion"]) for row in map(json.loads, lines)]

    for name in ("update_000002", "heldout_000000", "heldout_000002"):
        assert texts("roles", name) == texts("alone", name)
    for row, want in zip(rows_of(tmp_path / "roles"), rows_of(tmp_path / "alone"), strict=True):
        for name, value in want.items():
            assert row[name] == pytest.approx(value, rel=2e-3, abs=2e-4), name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rollout_mesh": 4}, "rollout_mesh=4 must be a dict"),
        ({"rollout_mesh": {"tensor": 2}}, "rollout_mesh {'tensor': 2} is of 2 devices, and the trainer has 1"),
        ({"rollout_mesh": {"tensor": 8, "first_device": 1}}, "there are 8"),
        ({"offload": ["weights"]}, r"offload\[0\]='weights' must be one of 'optimizer', 'reference'"),
        ({"offload": ["reference"], "kl_coef": 0.0}, "offload names 'reference', and with kl_coef=0"),
    ],
)
def test_bad_configs_are_named_before_compute(changes, words):
    with pytest.raises(ValueError, match=words):
        rl.check(short_config(**changes))
