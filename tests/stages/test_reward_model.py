"""The reward models' stage on a tiny model: it learns, resumes bit for bit, is loaded as a reward, and names bad input."""

import dataclasses
import json
import shutil
from collections import namedtuple

import jax
import numpy as np
import pytest

from r1jax.models.reward_head import REWARD_HEAD
from r1jax.models.transformer import make_model
from r1jax.policies.policy import load_init
from r1jax.policies.reward_model import load_reward_model, load_rewards, make_reward_pass, score_sequences
from r1jax.rewards.rubric import Rubric
from r1jax.sharding import make_mesh
from r1jax.specs.policy import StageInit
from r1jax.specs.reader import read
from r1jax.specs.rewards import ModelReward
from r1jax.specs.stages import RewardModelSpec
from r1jax.stages import reward_model
from r1jax.stages.reward_model import Example
from r1jax.tasks.problem import Problem
from r1jax.training.checkpoint import CheckpointError, Checkpoints
from r1jax.workdir.directory import WorkdirError
from tests.tiny import GQA, POLICY, rows_of, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")
QUESTIONS = ["Which two of 3, 8, 10, 4 make 13", "Which two of 5, 6, 7, 9 make 11"]


def pairs(*, seed, count=80):
    """The polite answer is better; both are about as long, and think about as much."""
    rng = np.random.default_rng(seed)
    for place in range(count):
        question = f"{QUESTIONS[place % 2]} ({place})"
        good, bad = f"please take {rng.integers(9)}", f"take it or {rng.integers(9)}"
        yield {
            "messages": [{"role": "user", "content": question}],
            "chosen": f"<think>{rng.integers(99)}</think>{good}",
            "rejected": f"<think>{rng.integers(99)}</think>{bad}",
        }


def labels(*, seed, count, too_long):
    """As many safe as unsafe ones; the first few are too long."""
    for place, record in enumerate(pairs(seed=seed, count=count)):
        for is_safe in (True, False):
            response = record["chosen" if is_safe else "rejected"] + " and" * (200 if place < too_long else 0)
            yield {"messages": record["messages"], "response": response, "is_safe": is_safe}


def tiny_values(kind="helpful", **changes) -> dict:
    return {
        "stage": "reward_model", "init": POLICY, "kind": kind, "template": "plain",
        "data": {"function": f"{__name__}:pairs"}, "max_tokens": 128, "length_bucket": 128,
        "examples_per_update": 12, "epochs": 2, "heldout_fraction": 0.2, "examples_per_microbatch": 8,
        "optimizer": {"learning_rate": 1e-2}, "bias_rate": 0.001, "log_every": 1, "checkpoint_every": 5,
    } | changes  # fmt: skip


def tiny_config(kind="helpful", **changes) -> RewardModelSpec:
    return read(RewardModelSpec, tiny_values(kind, **changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(config, work directory, summary) of a helpful reward model."""
    workdir = tmp_path_factory.mktemp("reward") / "helpful"
    config = tiny_config()
    return config, workdir, reward_model.main(config, workdir)


def test_it_learns_which_is_better_and_says_how_well(finished):
    _, workdir, summary = finished
    counts = summary["examples"]
    assert counts["train"] + counts["heldout"] == 80 and counts["too_long"] == 0
    assert summary["updates"] == -(-2 * counts["train"] // 12)
    heldout = summary["heldout"]
    assert heldout["accuracy"] > 0.9 and heldout["margin"] > 0.5 and heldout["ece"] < 0.5
    assert {"length/correlation", "length/prefers_longer", "length/bias"} <= heldout.keys()
    assert summary["center"] == heldout["mean_reward"]
    rows = rows_of(workdir)
    trained = [row for row in rows if "loss" in row]
    assert trained[-1]["loss"] < trained[0]["loss"]
    trls = {"accuracy", "margin", "min_reward", "mean_reward", "max_reward", "num_tokens", "epoch", "learning_rate"}
    assert trls <= trained[0].keys() and trained[-1]["epoch"] == 2
    assert rows[-1]["eval/accuracy"] == heldout["accuracy"]
    assert json.loads((workdir / "summary.json").read_text())["kind"] == "helpful" and (workdir / "DONE").exists()


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_bit_for_bit(finished, tmp_path):
    """Killed as it saved for the last time: the last complete checkpoint is that of update 10."""
    config, alone, summary = finished
    shutil.copytree(alone, tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "checkpoints" / str(summary["updates"]))
    for name in ("DONE", "summary.json"):
        (tmp_path / "killed" / name).unlink()
    assert [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()] == ["10"]
    assert reward_model.main(config, tmp_path / "killed")["heldout"] == summary["heldout"]
    assert rows_of(tmp_path / "killed") == rows_of(alone)
    states = [load_reward_model(path, mesh=make_mesh())[1:] for path in (tmp_path / "killed", alone)]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_in_rl_it_is_a_reward_that_reads_summaries(finished):
    _, workdir, summary = finished
    spec = ModelReward(path=str(workdir), name="helpful", tasks=("general",), weight=2.0)
    problem = Problem(({"role": "user", "content": QUESTIONS[0]},), "", {"task": "general"})
    texts = [f"<think>{'hm ' * place}</think>{say}" for place in (0, 30) for say in ("please take 3", "take it or 3")]
    columns = {"problem": [problem] * 5, "task_name": ["general"] * 4 + ["math"]}
    rubric = Rubric(load_rewards([spec], mesh=make_mesh()))
    scores = rubric.score([""] * 5, [*texts, texts[0]], columns)
    helpful = scores.by_name["helpful"]
    assert helpful[0] > 0.5 > helpful[1] and np.isnan(helpful[4])
    np.testing.assert_array_equal(helpful[:2], helpful[2:4])  # the thought is not read
    assert scores.total[0] == 2 * helpful[0] and summary["center"] != 0.0


def test_it_is_a_policy_too_but_a_policy_is_no_reward_model(finished, tmp_path):
    _, workdir, _ = finished
    policy, params, buffers = load_init(StageInit(path=str(workdir)), mesh=make_mesh(), seed=0)
    assert REWARD_HEAD not in params and params.keys() == policy.model.abstract()[0].keys()
    policy.save(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": params, "buffers": buffers}, extra={})
    (tmp_path / "DONE").touch()
    with pytest.raises(CheckpointError, match="params/reward_head/w_D is absent there"):
        load_reward_model(tmp_path, mesh=make_mesh())


def test_a_disk_that_cannot_hold_the_checkpoints_is_said_before_the_first_update(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 0, 68 * 10**6)  # enough for the logs
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(reward_model, "update_on_examples", None)
    with pytest.raises(WorkdirError, match=rf"{tmp_path}: needs \d+ MB, 68 MB are free"):
        reward_model.main(tiny_config(keep_checkpoints=99), tmp_path)


def test_safety_learns_labels_and_leaves_the_long_ones_out(tmp_path):
    data = {"function": f"{__name__}:labels", "arguments": {"count": 30, "too_long": 2}}
    summary = reward_model.main(tiny_config("safety", data=data, epochs=4, examples_per_update=24), tmp_path)
    assert summary["center"] == 0.0 and 0 < summary["examples"]["too_long"] <= 4
    assert sum(summary["examples"].values()) == 60
    heldout = summary["heldout"]
    assert {"accuracy_safe", "accuracy_unsafe", "ece", "length/correlation"} <= heldout.keys()
    assert heldout["margin"] > 0


@pytest.mark.parametrize("kind", ["helpful", "safety"])
def test_the_gradient_does_not_depend_on_the_microbatches(kind):
    model = make_model(GQA)
    params, buffers = shaken(model)
    params[REWARD_HEAD] = {"w_D": np.linspace(-1, 1, 32, dtype=np.float32)}
    rng = np.random.default_rng(0)
    sizes = [(3, 7), (5, 2), (6, 6)] if kind == "helpful" else [(3,), (7,), (5,)]
    batch = [Example(tuple(rng.integers(1, 48, n).tolist() for n in of), float(i % 2)) for i, of in enumerate(sizes)]
    spec = tiny_config(kind, examples_per_update=4, length_bucket=8)
    loss = jax.jit(jax.value_and_grad(reward_model.make_loss(model, spec), has_aux=True))
    found = []
    for rows in (4, 2):
        microbatches = reward_model.pad_microbatches(batch, dataclasses.replace(spec, examples_per_microbatch=rows))
        parts = [loss(params, buffers, part) for part in microbatches]
        found.append(jax.tree.map(lambda *values: sum(values), *parts))
    ((value, sums), grads), ((other, others), other_grads) = found
    assert float(value) == pytest.approx(float(other), rel=1e-5)
    np.testing.assert_allclose(sums["rewards_BK"], others["rewards_BK"], rtol=1e-4, atol=1e-5)
    assert not np.asarray(sums["rewards_BK"])[3].any() and np.asarray(sums["rewards_BK"])[:3].all()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), grads, other_grads)
    score = make_reward_pass(model)
    sequences = [ids for example in batch for ids in example.sequences]
    alone = [score_sequences(score, params, buffers, [ids], rows=1, bucket=8)[0] for ids in sequences]
    np.testing.assert_allclose(np.asarray(sums["rewards_BK"])[:3].ravel(), alone, rtol=1e-4, atol=1e-5)


def test_every_epoch_sees_every_example_once_and_the_last_batch_may_be_smaller():
    spec, examples = tiny_config(epochs=2, examples_per_update=4), [Example(([n],), 1.0) for n in range(7)]
    batches = [reward_model.batch_of(examples, update, spec) for update in range(4)]
    assert list(map(len, batches)) == [4, 4, 4, 2]
    order = [example.sequences[0][0] for batch in batches for example in batch]
    assert sorted(order[:7]) == sorted(order[7:]) == list(range(7)) and order[:7] != order[7:]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "harmless"}, "^kind='harmless' must be one of 'helpful', 'safety'"),
        ({"data": {"path": "a", "function": "b:c"}}, r"^data\.path or function must be there, one of the two"),
        ({"learning_rate": 1.0}, "^there is no key 'learning_rate'"),
        ({"heldout_fraction": 1.0}, r"^heldout_fraction=1.0 must be in \(0, 1\)"),
        ({"data": {"function": "tests.tiny:nothing"}}, r"^data\.function='tests.tiny:nothing': .* has no 'nothing'"),
        ({"template": "nothing"}, "nothing"),
    ],
)
def test_bad_configs_are_named_before_compute(changes, words):
    with pytest.raises(ValueError, match=words):
        reward_model.check(tiny_config(**changes))


def test_the_papers_values_are_the_defaults():
    spec = read(RewardModelSpec, {"init": POLICY, "kind": "helpful", "data": {"path": "pairs.jsonl"}})
    assert (spec.examples_per_update, spec.epochs, spec.max_tokens) == (256, 1, 8192)
    assert (spec.optimizer.learning_rate, spec.optimizer.schedule) == (6e-6, "constant")


def test_a_set_with_nothing_to_train_on_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no train example among 80 records: .*'too_long': "):
        reward_model.main(tiny_config(max_tokens=2), tmp_path)
