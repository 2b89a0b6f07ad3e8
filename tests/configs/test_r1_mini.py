"""The miniature's pipeline: its stages fit together, and its proportions are those of the paper's recipe."""

from pathlib import Path

import pytest

from r1jax.pipeline import make_stages
from r1jax.specs.config_file import load_config

CONFIG = str(Path(__file__).resolve().parents[2] / "configs" / "r1_mini" / "pipeline.py")


@pytest.fixture(scope="module")
def stages():
    """The stages' configs by name."""
    return load_config(CONFIG).stages.to_dict()


def test_every_stage_accepts_its_config(tmp_path):
    planned = make_stages(load_config(CONFIG), tmp_path / "r1")
    assert [stage.name for stage in planned][-1] == "claims"
    assert planned[0].workdir.parent == tmp_path  # the base is shared by runs


def test_general_data_joins_for_the_share_of_the_paper(stages):
    rl2 = stages["r1"]
    joins = {task["name"]: task.get("from_update", 0) for task in rl2["tasks"]}
    assert joins == {"pair_sum": 0, "helpful": 52, "safety": 52}
    assert (rl2["num_updates"] - 52) / rl2["num_updates"] == pytest.approx(400 / 1700, abs=0.01)
    starts = {
        reward["name"]: reward["from_update"] for reward in rl2["rewards"] if reward.get("kind") == "reward_model"
    }
    assert starts == {"model_helpful": 52, "model_safety": 52}
    assert rl2["temperature"] == 0.7
    assert {task.get("from_update", 0) for task in stages["r1_long"]["tasks"]} == {0}


def test_nobody_is_rewarded_with_the_truth(stages):
    for name, stage in stages.items():
        for reward in stage.get("rewards", ()):
            if "mini_general" in str(reward.get("function")):
                assert reward["weight"] == 0.0, name


def test_supervised_stages_start_where_the_paper_says(stages):
    assert {stages[name]["init"]["path"] for name in ("dev1", "dev3")} == {"{base}"}
    assert stages["dev2"]["init"]["path"] == "{dev1}"
    assert stages["r1"]["init"]["path"] == "{dev3}"
    for name in ("dev1", "dev3", "distill_qwen", "distill_llama"):
        assert stages[name]["optimizer"]["schedule"] == "cosine"
        assert stages[name]["optimizer"]["final_fraction"] == 0.1
    assert {stages[f"distill_{student}"]["data"]["arguments"]["path"] for student in ("qwen", "llama")} == {"{reject}"}


def test_the_ablation_differs_by_the_language_reward_alone(stages):
    for number in range(3):
        without, with_language = stages[f"zero_{number}"], stages[f"zero_language_{number}"]
        assert [reward["weight"] for reward in without["rewards"]] == [1.0, 1.0, 0.0, 0.0]
        assert [reward["weight"] for reward in with_language["rewards"]] == [1.0, 1.0, 1.0, 0.0]
        assert {key: value for key, value in without.items() if key != "rewards"} == {
            key: value for key, value in with_language.items() if key != "rewards"
        }
