"""The RL stage as a whole, on a tiny model: resume, meshes, bad input, failing rewards and gradients."""

import json
import os
import shutil
import signal
from collections import namedtuple
from pathlib import Path

import jax
import numpy as np
import pytest

from r1jax.policies.policy import load_init
from r1jax.rollout.collect import Collector
from r1jax.sharding import make_mesh
from r1jax.specs.reader import read
from r1jax.specs.stages import RlSpec
from r1jax.stages.open_run import open_run
from r1jax.stages.rl import stage as rl
from r1jax.stages.rl.doctor import UnhealthyRunError
from r1jax.training.checkpoint import load_checkpoint
from r1jax.training.learner import NonFiniteError
from r1jax.workdir.directory import WorkdirError
from r1jax.workdir.stop import Stopped
from tests.tiny import POLICY, rows_of

pytestmark = pytest.mark.usefixtures("quick_compilation")


def length_reward(prompts, completions, **columns):
    """A reward that differs between samples even of an untrained model."""
    return [len(text) / 100 for text in completions]


def failing_reward(prompts, completions, **columns):
    """Fails on the first sample of each group."""
    return [TimeoutError("1 s") if place == 0 else 0.0 for place in range(len(completions))]


def silent_reward(prompts, completions, completion_ids, **columns):
    if {len(ids) for ids in completion_ids} == {1}:  # the dummies that a config is checked with
        return [0.0] * len(completions)
    return [None] * len(completions)


def raising_reward(prompts, completions, **columns):
    raise RuntimeError("the judge is out")


def later_raising_reward(prompts, completions, completion_ids, **columns):
    if {len(ids) for ids in completion_ids} == {1}:  # the dummies that a config is checked with
        return [0.0] * len(completions)
    raise RuntimeError("the judge is out")


def needs_tests(prompts, completions, tests):
    return [0.0 for _ in completions]


def needs_numbers(prompts, completions, numbers):
    return [float(len(n)) for n in numbers]


LENGTH = {"function": f"{__name__}:length_reward"}
PAIRS = [{"kind": "mini", "name": "pair_sum"}]


def tiny_values(**changes) -> dict:
    """What a config says of a tiny RL stage; dicts among the changes are merged into what is there."""
    values = {
        "stage": "rl", "init": POLICY, "tasks": PAIRS, "rewards": [LENGTH], "template": "plain",
        "questions_per_phase": 4, "group_size": 4, "updates_per_phase": 2, "num_updates": 4, "reference_every": 2,
        "max_prompt_tokens": 100, "max_new_tokens": [[0, 8], [2, 12]], "row_length": 128, "rows_per_microbatch": 4,
        "checkpoint_every": 2, "bias_rate": 0.001, "engine": {"segment": 8},
        "optimizer": {"learning_rate": 1e-3, "b2": 0.99},
        "eval": {
            "every": 2, "problems": 4, "samples": 2, "final_problems": 4, "final_samples": 4, "problems_per_batch": 4,
            "temperature": 1.0, "top_p": None,
        },
    }  # fmt: skip
    for name in ("engine", "optimizer", "eval"):
        values[name] |= changes.pop(name, {})
    return values | changes


def tiny_config(**changes) -> RlSpec:
    return read(RlSpec, tiny_values(**changes))


def params_of(workdir: Path, spec: RlSpec):
    _, params, _ = load_init(spec.init, mesh=make_mesh(), seed=spec.seed)
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
    for update in (0, 2, 4):  # before, along the way, after
        assert (workdir / "completions" / f"heldout_00000{update}.jsonl").stat().st_size > 0
    trained = [row for row in rows_of(workdir) if "reward" in row]
    assert trained[1]["num_tokens"] > trained[0]["num_tokens"] > sum(r["num_tokens"] for r in rows)
    assert trained[0]["prompts/too_long"] == 0
    steps = [row["step"] for row in rows_of(workdir)]
    assert steps == [0, 2, 2, 4, 4]


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
    real = rl.update_on_groups

    def crash_in_the_second_phase(*args, **kwargs):
        if kwargs["updates"] == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(rl, "update_on_groups", crash_in_the_second_phase)
    with pytest.raises(KeyboardInterrupt):
        rl.main(config, tmp_path)
    assert not (tmp_path / "DONE").exists()
    monkeypatch.setattr(rl, "update_on_groups", real)
    summary = rl.main(config, tmp_path)
    assert summary["compilations"] == 0  # this start's own: the engine had them all
    assert rows_of(tmp_path) == rows_of(alone)
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path, config), params_of(alone, config))


def test_a_signal_ends_it_between_batches_and_it_goes_on_bit_for_bit(finished, tmp_path, monkeypatch):
    """Signals in the first of two batches of the first evaluation, in the one along the way, and of the last."""
    config = tiny_config(eval={"final_problems": 8})
    alone = rl.main(config, tmp_path / "alone")
    real, calls, at = Collector.start, [], None

    def start(*args, **kwargs):
        calls.append(kwargs["policy_version"])
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    monkeypatch.setattr(Collector, "start", start)
    seen = []
    for number in (1, 4, 3):
        calls, at = [], number
        with pytest.raises(Stopped):
            rl.main(config, tmp_path / "stopped")
        seen.append(list(calls))
        # Of a first evaluation that was cut short there is nothing to keep: a checkpoint's record is not written anew.
        assert bool(os.listdir(tmp_path / "stopped" / "checkpoints")) == (number != 1)
    assert seen == [[0], [0, 0, 0, 2], [2, 2, 4]]
    at = None
    summary = rl.main(config, tmp_path / "stopped")
    assert summary["before"] == alone["before"] and summary["after"] == alone["after"]
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "alone")


@pytest.mark.slow
def test_on_a_mesh_the_run_is_the_same(finished, tmp_path):
    _, alone, _ = finished
    mesh = {"data": 2, "expert": 2, "tensor": 2}
    rl.main(tiny_config(mesh=mesh), tmp_path)
    for ours, single in zip(rows_of(tmp_path), rows_of(alone), strict=True):
        for name, value in single.items():
            assert ours[name] == pytest.approx(value, rel=2e-3, abs=2e-4), name


def test_a_reward_that_fails_on_some_is_counted_and_they_are_kept_with_its_message(tmp_path):
    rewards = [LENGTH, {"function": f"{__name__}:failing_reward"}]
    rl.main(tiny_config(rewards=rewards, num_updates=2), tmp_path)
    row = next(row for row in rows_of(tmp_path) if "reward" in row)
    assert row["rewards/failing_reward/errors"] == row["rewards/failing_reward/timeouts"] == 4
    assert row["rewards/length_reward/errors"] == 0 and row["rewards/length_reward/mean"] > 0
    rows = [json.loads(line) for line in (tmp_path / "completions" / "update_000002.jsonl").read_text().splitlines()]
    failed = [row for row in rows if row["errors"]]
    assert len(rows) == 16 and len(failed) == 4
    for row in failed:
        assert row["errors"] == {"failing_reward": "TimeoutError: 1 s"}
        assert row["advantage"] == 0.0 and row["reward"] is None and row["rewards"]["failing_reward"] is None
    groups = [[row["advantage"] for row in rows if row["prompt"] == prompt] for prompt in {r["prompt"] for r in rows}]
    assert all(abs(sum(group)) < 1e-3 for group in groups) and any(map(any, groups))


def test_a_reward_that_fails_on_all_stops_the_run_with_the_completions_saved(tmp_path):
    rewards = [LENGTH, {"function": f"{__name__}:later_raising_reward", "weight": 0.5}]
    with pytest.raises(RuntimeError, match="'later_raising_reward' failed on all 16 .*RuntimeError: the judge is out"):
        rl.main(tiny_config(rewards=rewards), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "completions" / "update_000002.jsonl").read_text().splitlines()]
    assert len(rows) == 16 and rows[0]["errors"] == {"later_raising_reward": "RuntimeError: the judge is out"}
    evaluated = rows_of(tmp_path)[0]
    assert (
        evaluated["eval/rewards/later_raising_reward/errors"] == 16
        and evaluated["eval/rewards/length_reward/errors"] == 0
    )
    assert not (tmp_path / "DONE").exists()


def test_a_gradient_that_is_not_finite_stops_the_run_and_names_the_update(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "r1jax.stages.rl.phase.advantages_of", lambda groups, **_: np.full((len(groups), 4), np.nan, np.float32)
    )
    with pytest.raises(NonFiniteError, match="update 1"):
        rl.main(tiny_config(), tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == ["0"]


def test_an_update_without_a_token_in_its_loss_changes_no_weight_and_the_doctor_stops_the_run(tmp_path):
    spec = tiny_config(
        rewards=[{"function": f"{__name__}:silent_reward"}], optimizer={"weight_decay": 0.5},
        doctor={"phases": 1, "stop": True}, num_updates=8,
    )  # fmt: skip
    with pytest.raises(UnhealthyRunError, match="update 2: for 1 phases no completion had a reward"):
        rl.main(spec, tmp_path)
    assert load_checkpoint(tmp_path, {"step": jax.numpy.int32(0)}, partial=True)[0]["step"] == 2
    _, before, _ = load_init(spec.init, mesh=rl.make_mesh(), seed=spec.seed)
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path, spec), before)
    assert [row["num_loss_tokens"] for row in rows_of(tmp_path) if "num_tokens" in row] == [0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"refill_reward": "style"}, "refill_reward: there is no reward 'style'; there are length_reward"),
        ({"group_size": 1}, "group_size=1"),
        ({"group_sise": 4}, "'group_sise'; near it: group_size"),
        ({"clip_low": -0.2}, "clip_low=-0.2 must be at least 0"),
        ({"questions_per_phase": 5}, "questions_per_phase=5"),
        ({"num_updates": 3}, "num_updates=3"),
        ({"reference_every": 3}, "reference_every=3"),
        ({"eval": {"every": 3}}, r"eval\.every=3 is no multiple of updates_per_phase=2"),
        ({"eval": {"problems": 5}}, r"eval\.problems=5 exceeds final_problems=4"),
        ({"row_length": 64}, "row_length=64 does not hold max_prompt_tokens=100 and 12 new tokens"),
        ({"max_new_tokens": [[2, 8]]}, "max_new_tokens"),
        ({"max_new_tokens": [[0, 8], [1, 9]]}, "max_new_tokens.*starts must be multiples of updates_per_phase=2"),
        ({"max_new_tokens": [[0, 8, 1]]}, "max_new_tokens.*pairs of whole numbers"),
        ({"aggregation": "constant"}, "aggregation_constant goes with aggregation='constant'"),
        ({"aggregation_constant": 8}, "aggregation_constant goes with aggregation='constant'"),
        ({"aggregation_constant": 8.0}, "aggregation_constant=8.0 must be a whole number"),
        ({"dual_clip": 0.5}, "dual_clip=0.5 must be more than 1"),
        ({"optimizer": {"warmup_steps": 4}}, r"optimizer\.warmup_steps=4 must be below the 4 updates"),
        ({"rewards": [LENGTH | {"weight": 0.0}]}, "all weights are 0"),
        ({"rewards": [{"function": "r1jax.rewards.accuracy:nothing"}]}, r"rewards\[0\]\.function=.*'nothing'"),
        (
            {"rewards": [{"function": f"{__name__}:raising_reward"}]},
            "'raising_reward' fails on every answer: RuntimeErr",
        ),
        ({"rewards": [LENGTH | {"tasks": ["code"]}]}, "there is no task 'code'; there are pair_sum"),
        (
            {"rewards": [{"function": f"{__name__}:needs_tests"}]},
            "task 'pair_sum', training problem 0: reward 'needs_tests' needs tests",
        ),
        (
            {
                "rewards": [{"function": f"{__name__}:needs_numbers"}],
                "tasks": [*PAIRS, {"kind": "reasoning_gym", "dataset": "leg_counting"}],
            },
            "task 'leg_counting', training problem 0: reward 'needs_numbers' needs numbers",
        ),
        ({"template": "qwen"}, "template='qwen' must be one of"),
        ({"mesh": {"data": 3}}, r"mesh \{'data': 3\} is of 3 devices"),
        (
            {"balance_weight": 1e-4, "init": POLICY | {"preset": "mini_llama", "model": {}}},
            "balance_weight=0.0001, but the model has num_experts=0",
        ),
    ],
)
def test_bad_configs_are_named_before_compute(changes, words):
    with pytest.raises(ValueError, match=words):
        rl.check(tiny_config(**changes))


def test_a_reward_for_one_task_of_a_mixture_needs_its_columns_there_only():
    tasks = [*PAIRS, {"kind": "reasoning_gym", "dataset": "leg_counting"}]
    numbers = {"function": f"{__name__}:needs_numbers", "tasks": ["pair_sum"]}
    rl.check(tiny_config(tasks=tasks, rewards=[numbers, LENGTH], max_prompt_tokens=300, row_length=None))


def test_problems_of_a_file_are_named_by_their_row_before_compute(tmp_path):
    rows = [{"question": f"{n} and {n}?", "answer": f"#### {2 * n}"} for n in range(60)]
    for name, last in (("good", "#### 7"), ("bad", "seven")):
        lines = map(json.dumps, [*rows, {"question": "3 and 4?", "answer": last}])
        (tmp_path / name).with_suffix(".jsonl").write_text("\n".join(lines))
    good, bad = (
        {"kind": "files", "dataset": "gsm8k", "path": str(tmp_path / name), "prompt": "{question}"}
        for name in ("good.jsonl", "bad.jsonl")
    )
    rl.check(tiny_config(tasks=[good], rewards=[{"function": "r1jax.rewards.math:accuracy"}]))
    with pytest.raises(ValueError, match=r"'gsm8k': .*bad.jsonl, row 61: field 'answer' must end"):
        rl.check(tiny_config(tasks=[*PAIRS, bad | {"bad_rows": "refuse"}]))
    with pytest.raises(ValueError, match=r"'gsm8k': .*good.jsonl, row \d+: reward 'needs_tests' needs tests"):
        rl.check(tiny_config(tasks=[good], rewards=[{"function": f"{__name__}:needs_tests"}]))


def test_top_p_of_the_evaluation_reaches_the_engine(tmp_path):
    config, seen = tiny_config(eval={"top_p": 0.95}), []

    class Engine:
        def start(self, *args, **settings):
            seen.append(settings["top_p"])
            raise InterruptedError

    with open_run(config, tmp_path) as run, pytest.raises(InterruptedError):
        weights = {"params": 0, "buffers": 0}
        rl.evaluate_heldout(Engine(), weights, [None] * 4, config, run, is_full=True)
    assert seen == [0.95]


def test_a_reward_model_that_was_made_anew_is_refused_on_resume(tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise InterruptedError

    monkeypatch.setattr("r1jax.stages.open_run.load_init", interrupt)
    (tmp_path / "helpful").mkdir()
    for name in ("config.json", "environment.json"):
        (tmp_path / "helpful" / name).write_text("{}")
    config = tiny_config(
        rewards=[LENGTH, {"kind": "reward_model", "path": str(tmp_path / "helpful"), "name": "helpful"}]
    )
    for seed in (0, 1):  # a start that failed before the first checkpoint locks nothing
        (tmp_path / "helpful" / "config.json").write_text(json.dumps({"seed": seed}))
        with pytest.raises(InterruptedError):
            rl.main(config, tmp_path / "rl")
    (tmp_path / "rl" / "checkpoints" / "2").mkdir(parents=True)
    with pytest.raises(InterruptedError):
        rl.main(config, tmp_path / "rl")
    (tmp_path / "helpful" / "config.json").write_text('{"seed": 2}')
    with pytest.raises(WorkdirError, match=r"its input rewards\[1\]\.path=.*/helpful was made anew"):
        rl.main(config, tmp_path / "rl")


def test_a_disk_that_cannot_hold_the_checkpoints_is_said_before_anything_is_sampled(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 0, 68 * 10**6)  # enough for the logs
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(rl, "evaluate_heldout", None)
    with pytest.raises(WorkdirError, match=rf"{tmp_path}: needs \d+ MB, 68 MB are free"):
        rl.main(tiny_config(keep_checkpoints=99), tmp_path)


def test_a_prompt_over_the_budget_is_named_before_anything_is_sampled(tmp_path):
    with pytest.raises(ValueError, match="max_prompt_tokens=5"):
        rl.main(tiny_config(max_prompt_tokens=5), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()
