"""The miniature's pipeline: its stages fit together, and its proportions are those of the paper's recipe."""

import dataclasses
from pathlib import Path

import pytest

from r1jax.pipeline import make_stages, plan_stages
from r1jax.specs.config_file import load_experiment
from r1jax.specs.rewards import ModelReward
from r1jax.specs.stages import RlSpec

CONFIG = str(Path(__file__).resolve().parents[2] / "configs" / "r1_mini" / "pipeline.py")
WORKDIR = Path("/runs/r1")


@pytest.fixture(scope="module")
def stages():
    """The stages' specs by name."""
    return {stage.name: stage.spec for stage in plan_stages(load_experiment(CONFIG), WORKDIR)}


def test_every_stage_accepts_its_config(tmp_path):
    planned = make_stages(load_experiment(CONFIG), tmp_path / "r1")
    assert [stage.name for stage in planned][-1] == "claims"
    assert planned[0].workdir.parent == tmp_path  # the base is shared by runs


def test_general_data_joins_for_the_share_of_the_paper(stages):
    rl2 = stages["r1"]
    assert {task.name: task.from_update for task in rl2.tasks} == {"pair_sum": 0, "helpful": 52, "safety": 52}
    assert (rl2.num_updates - 52) / rl2.num_updates == pytest.approx(400 / 1700, abs=0.01)
    starts = {reward.name: reward.from_update for reward in rl2.rewards if isinstance(reward, ModelReward)}
    assert starts == {"model_helpful": 52, "model_safety": 52}
    assert rl2.temperature == 0.7
    assert {task.from_update for task in stages["r1_long"].tasks} == {0}


def test_no_policy_is_rewarded_with_the_truth(stages):
    weights = [
        reward.weight
        for stage in stages.values()
        if isinstance(stage, RlSpec)
        for reward in stage.rewards
        if getattr(reward, "function", "").startswith("r1jax.tasks.mini.general:")
    ]
    assert weights == [0.0] * 4  # helpfulness and safety, in r1 and r1_long


def test_supervised_stages_start_where_the_paper_says(stages):
    starts = {name: Path(stages[name].init.path).name for name in ("dev1", "dev2", "dev3", "r1")}
    assert starts["dev1"] == starts["dev3"] and starts["dev1"].startswith("base-")
    assert starts["dev2"] == "dev1" and starts["r1"] == "dev3"
    for name in ("dev1", "dev3", "distill_qwen", "distill_llama"):
        assert stages[name].optimizer.schedule == "cosine"
        assert stages[name].optimizer.final_fraction == 0.1
    for student in ("qwen", "llama"):
        assert stages[f"distill_{student}"].data.path == str(WORKDIR / "reject")


def test_the_ablation_differs_by_the_language_reward_alone(stages):
    for number in range(3):
        without, with_language = stages[f"zero_{number}"], stages[f"zero_language_{number}"]
        assert [reward.weight for reward in without.rewards] == [1.0, 1.0, 0.0, 0.0]
        assert [reward.weight for reward in with_language.rewards] == [1.0, 1.0, 1.0, 0.0]
        assert dataclasses.replace(without, rewards=with_language.rewards) == with_language
