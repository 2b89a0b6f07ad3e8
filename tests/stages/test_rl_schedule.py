"""RL stage 2: tasks and rewards, a reward model's among them, that join along the way; the run resumes bit for bit."""

import json
import shutil

import jax
import numpy as np
import pytest

from r1jax.policies.policy import load_init
from r1jax.policies.reward_model import init_head
from r1jax.sharding import make_mesh
from r1jax.specs.policy import AnyInit
from r1jax.specs.reader import read
from r1jax.stages.rl import stage as rl
from r1jax.training.checkpoint import Checkpoints
from tests.stages.rl.test_stage import LENGTH, params_of, tiny_config
from tests.tiny import POLICY, rows_of

pytestmark = pytest.mark.usefixtures("quick_compilation")

PAIRS = {"kind": "mini", "name": "pair_sum"}


def general(folder, **changes):
    """A task of two problems in a file, whose prompts are about as long as those of the other."""
    path = folder / "general.jsonl"
    rows = [{"question": f"Which two of 3, 8, 10, {n} make 13", "answer": "#### 13"} for n in (4, 6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {"kind": "files", "dataset": "gsm8k", "name": "general", "prompt": "{question}", "train": str(path)}
    return spec | {"weight": 0.1, "from_update": 2} | changes


def is_even(prompts, completions):
    return [float(len(text) % 2 == 0) for text in completions]


def make_reward_model(path):
    """A work directory as the reward model's stage leaves it, with an untrained model."""
    policy, params, buffers = load_init(read(AnyInit, POLICY), mesh=make_mesh(), seed=1)
    path.mkdir()
    policy.save(path)
    with Checkpoints(path) as checkpoints:
        params = init_head(policy, params, mesh=make_mesh(), seed=1)
        checkpoints.save(1, {"params": params, "buffers": buffers}, extra={})
    (path / "config.json").write_text(json.dumps({"kind": "safety", "template": "plain", "length_bucket": 64}))
    (path / "summary.json").write_text(json.dumps({"center": 0.25}))
    (path / "DONE").touch()


def scheduled_config(folder, **changes):
    rewards = [
        LENGTH,
        {
            "kind": "reward_model",
            "path": str(folder / "safety"),
            "name": "safe",
            "tasks": ["general"],
            "from_update": 2,
        },
        {"function": f"{__name__}:is_even", "weight": 0.5, "from_update": 2},
    ]
    return tiny_config(
        **{"tasks": [PAIRS, general(folder)], "rewards": rewards, "temperature": 0.7, "eval": {"every": 4}} | changes
    )


@pytest.mark.slow
def test_what_joins_at_an_update_does_so_there_and_a_run_stopped_at_it_goes_on_bit_for_bit(tmp_path):
    make_reward_model(tmp_path / "safety")
    config = scheduled_config(tmp_path)
    rl.main(config, tmp_path / "alone")
    files = [tmp_path / "alone" / "completions" / f"update_00000{update}.jsonl" for update in (2, 4)]
    before, after = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
    assert {row["problem"]["task"] for row in before} == {"pair_sum"}
    assert all(row["rewards"].keys() == {"length_reward"} for row in before)
    assert {row["problem"]["task"] for row in after} == {"pair_sum", "general"}
    for row in after:
        assert row["rewards"].keys() == {"length_reward", "safe", "is_even"}
        safe = row["rewards"]["safe"]
        assert (0 < safe < 1) if row["problem"]["task"] == "general" and row["completion"].strip() else not safe
        total = row["rewards"]["length_reward"] + (safe or 0.0) + 0.5 * row["rewards"]["is_even"]
        assert row["reward"] == pytest.approx(total, rel=1e-5)
    heldout = (tmp_path / "alone" / "completions" / "heldout_000004.jsonl").read_text().splitlines()
    assert {json.loads(line)["problem"]["task"] for line in heldout} == {"pair_sum"}
    rows = [row for row in rows_of(tmp_path / "alone") if "reward" in row]
    assert "rewards/safe/mean" not in rows[0] and rows[1]["rewards/safe/errors"] == 0 < rows[1]["rewards/safe/mean"]

    # killed after the checkpoint at the boundary, which was written before anything had joined
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "alone", killed)
    shutil.rmtree(killed / "checkpoints" / "4")
    for name in ("DONE", "summary.json"):
        (killed / name).unlink()
    rl.main(config, killed)
    assert rows_of(killed) == rows_of(tmp_path / "alone")
    assert (killed / "completions" / files[1].name).read_text() == files[1].read_text()
    ours, theirs = (params_of(path, config) for path in (killed, tmp_path / "alone"))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"from_update": 1}, r"tasks\[1\]\.from_update=1 is no multiple of updates_per_phase=2"),
        ({"from_update": 4}, r"tasks\[1\]\.from_update=4 is never reached with num_updates=4"),
        ({"tasks": [PAIRS | {"from_update": 2}]}, "tasks: none takes part from update 0"),
        ({"rewards": [LENGTH | {"from_update": 2}]}, "rewards: none takes part from update 0"),
        ({"rewards": [LENGTH, LENGTH | {"name": "b", "from_update": 3}]}, r"rewards\[1\]\.from_update=3"),
        ({"rewards": [LENGTH | {"tasks": ["pair_sum"]}]}, r"tasks\[1\]: no reward with a weight applies to 'general'"),
        ({"rewards": [LENGTH, {"kind": "reward_model", "name": "safe"}]}, r"'rewards\[1\]\.path' is missing"),
        ({"rewards": [LENGTH, {"kind": "judge", "path": "p"}]}, r"rewards\[1\]\.kind='judge' must be one of"),
        (
            {"rewards": [LENGTH, {"kind": "reward_model", "path": "p", "name": "s", "tasks": ["x"]}]},
            "there is no task 'x'",
        ),
    ],
)
def test_bad_schedules_are_named_before_compute(changes, words, tmp_path):
    if "from_update" in changes:
        changes = {"tasks": [PAIRS, general(tmp_path, **changes)]}
    with pytest.raises(ValueError, match=words):
        rl.check(scheduled_config(tmp_path, **changes))


def test_a_config_is_checked_before_its_reward_model_is_there(tmp_path):
    rl.check(scheduled_config(tmp_path))
    with pytest.raises(FileNotFoundError, match="safety is not the work directory of a finished stage"):
        rl.main(scheduled_config(tmp_path), tmp_path / "run")
