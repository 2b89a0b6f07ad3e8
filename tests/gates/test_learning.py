"""The learning gate: GRPO must raise the held-out score of a small base, and without advantages it must not.

The experiment is configs/zero.py made easier (three numbers up to 12) and shorter. Two to three and a half minutes on two cores.
"""

import dataclasses

import pytest

from r1jax.pipeline import make_stages
from r1jax.run import run_stages
from r1jax.specs.config_file import Experiment, load_experiment
from r1jax.stages.rl import phase

pytestmark = pytest.mark.gate

RISE = 0.2
"""Least gain of held-out pass@1 that counts as learning; its standard error here is about 0.03."""


def gate_experiment() -> Experiment:
    experiment = load_experiment("configs/zero.py")
    task = {"count": 3, "low": 1, "high": 12, "heldout_fraction": 0.25}
    base, zero = (dict(values) for values in experiment.stages.values())
    base["data"] = base["data"] | {"arguments": {"warmup_documents": 7000, "config": task}}
    base["num_updates"] = 340
    zero["tasks"] = [{"kind": "mini", "name": "pair_sum", "config": task}]
    zero |= {"num_updates": 16, "max_new_tokens": 64}
    zero["optimizer"] = zero["optimizer"] | {"learning_rate": 2e-4}
    zero["eval"] = zero["eval"] | {"every": 100, "final_problems": 128, "final_samples": 4}
    return dataclasses.replace(experiment, stages={"base": base, "zero": zero})


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Both runs start from one base, which the first of them trains."""
    return tmp_path_factory.mktemp("gate")


def rise_of(workdir, name: str) -> float:
    """Held-out pass@1 after minus before."""
    summaries = run_stages(make_stages(gate_experiment(), workdir / name))
    assert summaries is not None
    before, after = summaries["zero"]["before"], summaries["zero"]["after"]
    print(f"{name}: held-out pass@1 {before['pass@1']:.3f} -> {after['pass@1']:.3f}")
    return after["pass@1"] - before["pass@1"]


def test_grpo_learns(workdir):
    assert rise_of(workdir, "grpo") >= RISE


def test_without_advantages_the_gate_is_shut(workdir, monkeypatch):
    real = phase.advantages_of
    monkeypatch.setattr(phase, "advantages_of", lambda *args, **options: 0 * real(*args, **options))
    assert rise_of(workdir, "zeroed") < RISE / 2
