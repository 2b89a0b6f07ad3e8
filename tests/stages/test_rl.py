"""The RL stage as a whole, on a tiny model: resume, meshes, bad input, failing rewards and gradients."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from r1jax.rollout.collect import Collected
from r1jax.rollout.types import Completion, Group, Rollout
from r1jax.run import load_config
from r1jax.stages import rl
from r1jax.tasks.types import Problem
from r1jax.training.checkpoint import load_checkpoint
from r1jax.training.learner import NonFiniteError
from tests.tiny import POLICY, rows_of


def length_reward(prompts, completions, **columns):
    """A reward that differs between samples even of an untrained model."""
    return [len(text) / 100 for text in completions]


def raising_reward(prompts, completions, **columns):
    raise RuntimeError("the judge is out")


def tiny_config(**changes) -> ConfigDict:
    config = ConfigDict(load_config("configs/zero.py").stages.zero.to_dict())
    config.update(
        init=POLICY,
        tasks=[{"kind": "mini", "name": "pair_sum"}],
        rewards=[{"function": f"{__name__}:length_reward", "weight": 1.0}],
        questions_per_phase=4, group_size=4, updates_per_phase=2, num_updates=4, reference_every=2,
        max_prompt_tokens=100, max_new_tokens=[[0, 8], [2, 12]], row_length=128, rows_per_microbatch=4,
        checkpoint_every=2,
    )  # fmt: skip
    config.engine.segment = 8
    config.optimizer.update(learning_rate=1e-3, warmup_steps=0)
    config.eval.update(every=2, problems=4, samples=2, final_problems=4, final_samples=4, problems_per_batch=4)
    with config.unlocked():
        config.update(changes)
    return config.lock()


def params_of(workdir: Path, config: ConfigDict):
    _, params, _ = rl.load_policy(config.init.to_dict(), mesh=rl.make_mesh(), seed=config.seed)
    return load_checkpoint(workdir, {"params": params}, partial=True)[0]["params"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(config, work directory, summary) of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("rl") / "alone"
    config = tiny_config()
    return config, workdir, rl.main(config, workdir)


def test_a_run_leaves_a_complete_work_directory(finished):
    _, workdir, summary = finished
    assert summary["updates"] == 4 and {"before", "after"} <= summary.keys()
    for name in ("config.json", "environment.json", "metrics.jsonl", "model.json", "summary.json", "DONE"):
        assert (workdir / name).is_file(), name
    rows = [json.loads(line) for line in (workdir / "completions" / "update_000002.jsonl").read_text().splitlines()]
    assert len(rows) == 16 and {r["split"] for r in rows} == {"train"}
    assert abs(sum(r["advantage"] for r in rows)) < 1e-3
    steps = [row["step"] for row in rows_of(workdir)]
    assert steps == [0, 2, 4, 4]


def test_the_length_cap_is_raised_at_its_update(finished):
    _, workdir, _ = finished
    longest = {row["step"]: row["completions/max_length"] for row in rows_of(workdir) if "reward" in row}
    assert longest == {2: 8, 4: 12}


def test_sampler_and_trainer_agree(finished):
    for row in rows_of(finished[1]):
        if "reward" in row:
            assert row["sampling/sampling_logp_difference/max"] < 1e-4
            assert row["clip_ratio/region_mean"] == 0.0


def test_programs_are_few(finished):
    assert finished[2]["compilations"] <= 9


def test_a_crashed_run_goes_on_bit_for_bit(finished, tmp_path, monkeypatch):
    config, alone, _ = finished
    real = rl.train_on

    def crash_in_the_second_phase(*args, **kwargs):
        if kwargs["updates"] == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(rl, "train_on", crash_in_the_second_phase)
    with pytest.raises(KeyboardInterrupt):
        rl.main(config, tmp_path)
    assert not (tmp_path / "DONE").exists()
    monkeypatch.setattr(rl, "train_on", real)
    rl.main(config, tmp_path)
    assert rows_of(tmp_path) == rows_of(alone)
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path, config), params_of(alone, config))


def test_on_a_mesh_the_run_is_the_same(finished, tmp_path):
    _, alone, _ = finished
    mesh = {"data": 2, "expert": 2, "tensor": 2}
    rl.main(tiny_config(mesh=mesh), tmp_path)
    for ours, single in zip(rows_of(tmp_path), rows_of(alone), strict=True):
        for name, value in single.items():
            assert ours[name] == pytest.approx(value, rel=2e-3, abs=2e-4), name


def test_a_reward_that_raises_is_counted_and_the_completions_are_kept(tmp_path):
    rewards = [
        {"function": f"{__name__}:length_reward", "weight": 1.0},
        {"function": f"{__name__}:raising_reward", "weight": 1.0},
    ]
    rl.main(tiny_config(rewards=rewards, num_updates=2), tmp_path)
    row = next(row for row in rows_of(tmp_path) if "reward" in row)
    assert row["rewards/raising_reward/errors"] == 16
    assert row["rewards/length_reward/mean"] > 0
    assert (tmp_path / "completions" / "update_000002.jsonl").is_file()


def test_a_gradient_that_is_not_finite_stops_the_run_and_names_the_update(tmp_path, monkeypatch):
    monkeypatch.setattr(rl, "advantages_of", lambda groups, **_: np.full((len(groups), 4), np.nan, np.float32))
    with pytest.raises(NonFiniteError, match="update 1"):
        rl.main(tiny_config(), tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == ["0"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"group_size": 1}, "group_size=1"),
        ({"questions_per_phase": 5}, "questions_per_phase=5"),
        ({"num_updates": 3}, "num_updates=3"),
        ({"row_length": 64}, "row_length=64"),
        ({"temperature": 0.0}, "temperature"),
        ({"rewards": [{"function": "r1jax.rewards.accuracy:nothing", "weight": 1.0}]}, "nothing"),
        ({"tasks": [{"kind": "mini", "name": "pears"}]}, "pears"),
        ({"max_new_tokens": [[2, 8]]}, "max_new_tokens"),
        ({"aggregation": "mean"}, "aggregation"),
        ({"kl_estimator": "k9"}, "k9"),
        ({"advantage": "rank"}, "rank"),
    ],
)
def test_bad_configs_are_named_before_compute(changes, words):
    with pytest.raises(ValueError, match=words):
        rl.check(tiny_config(**changes))


def test_a_prompt_over_the_budget_is_named_before_anything_is_sampled(tmp_path):
    with pytest.raises(ValueError, match="max_prompt_tokens=5"):
        rl.main(tiny_config(max_prompt_tokens=5), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def make_group(rewards) -> Group:
    completion = Completion(np.array([1], np.int32), np.zeros(1, np.float32), "stop")
    rollouts = [Rollout(np.array([1]), completion, "", 0, {"r": r}, r, bool(r), None) for r in rewards]
    return Group(Problem((), "", {"task": "t"}), tuple(rollouts))


def test_refills_replace_groups_that_teach_nothing():
    batches = iter([[make_group([0, 0]), make_group([0, 1])], [make_group([1, 0]), make_group([1, 1])]])

    class Collector:
        def collect(self, params, buffers, problems, **settings):
            return Collected(next(batches), {"generate": 1.0, "rewards": 0.5}, {"r": 0}, {})

    config = tiny_config(questions_per_phase=2, max_refills=3)
    state = {"params": None, "buffers": None}
    groups, seconds, row = rl.collect_groups(Collector(), state, iter([None] * 4), config, updates=0)
    assert [[r.reward for r in g.rollouts] for g in groups] == [[0, 1], [1, 0]]
    assert seconds == {"generate": 2.0, "rewards": 1.0}
    assert row["frac_reward_zero_std"] == 0.5 and row["num_questions_sampled"] == 4
