"""The evaluate stage on a tiny model: its figures against its own samples, a stop in the middle, bad input."""

import json
import os
import signal
from collections import Counter

import numpy as np
import pytest

from r1jax.evals.statistics import share_interval
from r1jax.rollout.collect import Collector
from r1jax.specs.reader import read
from r1jax.specs.stages import EvaluateSpec
from r1jax.stages import evaluate
from r1jax.workdir.directory import WorkdirError
from r1jax.workdir.stop import Stopped
from tests.stages.test_rl_schedule import make_reward_model
from tests.tiny import POLICY, rows_of

PAIRS = {"kind": "mini", "name": "pair_sum", "config": {"heldout_fraction": 0.1}}
FACTS = {"kind": "mini", "name": "helpful"}


def is_even(prompts, completions):
    return [float(len(text) % 2 == 0) for text in completions]


def fails_on_some(prompts, completions, completion_ids):
    return [TimeoutError("late") if place == 0 and len(completions) > 1 else 1.0 for place in range(len(completions))]


def needs_legs(prompts, completions, legs):
    return [0.0 for _ in completions]


EVEN = {"function": f"{__name__}:is_even", "weight": 2.0, "from_update": 4}


def tiny_values(**changes) -> dict:
    return {
        "stage": "evaluate", "init": POLICY, "tasks": [PAIRS, FACTS], "template": "plain",
        "rewards": [EVEN], "problems": 4, "samples": 4, "cons_at": [1, 3], "max_prompt_tokens": 64,
        "max_new_tokens": 8, "temperature": 1.0, "problems_per_batch": 2,
        "engine": {"prompt_bucket": 64, "segment": 8},
    } | changes  # fmt: skip


def tiny_config(**changes) -> EvaluateSpec:
    return read(EvaluateSpec, tiny_values(**changes))


def completions_of(workdir, step):
    path = workdir / "completions" / f"heldout_{step:06d}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, quick_compilation):
    """(work directory, summary) of a run that nothing disturbed, with a trained reward model among the rewards."""
    folder = tmp_path_factory.mktemp("evaluate")
    make_reward_model(folder / "safety")
    rewards = [
        EVEN,
        {"kind": "reward_model", "path": str(folder / "safety"), "name": "safe", "tasks": ["helpful"]},
        {"function": f"{__name__}:fails_on_some", "tasks": ["pair_sum"]},
    ]
    workdir = folder / "run"
    return workdir, evaluate.main(tiny_config(rewards=rewards), workdir)


def test_the_figures_are_those_of_the_samples_written_down(finished):
    workdir, summary = finished
    assert set(summary) == {"tasks", "wall_seconds", "seed"} and list(summary["tasks"]) == ["pair_sum", "helpful"]
    assert json.loads((workdir / "summary.json").read_text()) == summary and (workdir / "DONE").exists()
    for step, (name, metrics) in enumerate(summary["tasks"].items(), start=1):
        rows = completions_of(workdir, step)
        assert {row["problem"]["task"] for row in rows} == {name} and len(rows) == 16
        assert set(Counter(row["prompt"] for row in rows).values()) == {4}
        correct = np.mean([row["correct"] for row in rows])
        assert metrics["pass@1"] == pytest.approx(correct) and metrics["cons@1"] == pytest.approx(correct)
        assert metrics["pass@1_low"] <= metrics["pass@1"] <= metrics["pass@1_high"]
        assert metrics["mean_length"] == pytest.approx(np.mean([row["num_tokens"] for row in rows]))
        assert metrics["clipped_ratio"] == np.mean([row["stop_reason"] == "length" for row in rows])
        even = np.array([row["rewards"]["is_even"] for row in rows]).reshape(4, 4).mean(1)
        assert metrics["rewards/is_even/mean"] == pytest.approx(even.mean())
        limits = metrics["rewards/is_even/mean_low"], metrics["rewards/is_even/mean_high"]
        assert limits == pytest.approx(share_interval(even))
        assert 0 < limits[0] < even.mean() < limits[1] < 1
        assert {"cons@3", "cons@3_high", "reflection/per_completion", "format"} <= metrics.keys()
        assert all(row["reward"] is None and row["advantage"] is None for row in rows)


def test_a_reward_counts_where_it_applies_and_its_failures_are_told(finished):
    _, summary = finished
    pairs, facts = summary["tasks"]["pair_sum"], summary["tasks"]["helpful"]
    assert "rewards/safe/mean" not in pairs and 0.0 < facts["rewards/safe/mean"] < 1.0
    assert "rewards/fails_on_some/mean" not in facts
    assert pairs["rewards/fails_on_some/errors"] >= 4 and pairs["rewards/fails_on_some/mean"] == 1.0


def test_a_run_that_was_stopped_goes_on_with_the_next_task(tmp_path, monkeypatch, quick_compilation):
    alone = evaluate.main(tiny_config(), tmp_path / "alone")
    real, asked = Collector.start, []

    def start(self, params, buffers, problems, **settings):
        asked.append(self.task.name)
        if len(asked) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, params, buffers, problems, **settings)

    monkeypatch.setattr(Collector, "start", start)
    workdir = tmp_path / "stopped"
    with pytest.raises(Stopped):
        evaluate.main(tiny_config(), workdir)
    assert asked == ["pair_sum", "pair_sum", "helpful"]
    assert not (workdir / "DONE").exists() and len(rows_of(workdir)) == 1
    summary = evaluate.main(tiny_config(), workdir)
    assert asked[3:] == ["helpful", "helpful"]
    assert _without_seconds(summary["tasks"]) == _without_seconds(alone["tasks"])
    assert completions_of(workdir, 2) == completions_of(tmp_path / "alone", 2)
    with pytest.raises(WorkdirError, match="samples"):
        evaluate.main(tiny_config(samples=3), workdir)


def test_a_task_whose_last_batch_is_smaller_and_without_rewards(tmp_path, quick_compilation):
    summary = evaluate.main(tiny_config(tasks=[FACTS], rewards=[], problems=3), tmp_path)
    assert len(completions_of(tmp_path, 1)) == 3 * 4
    assert not [name for name in summary["tasks"]["helpful"] if name.startswith("rewards/")]


def _without_seconds(tasks):
    return {name: {key: v for key, v in row.items() if "seconds" not in key} for name, row in tasks.items()}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cons_at": [1, 5]}, "^cons_at: 5 is more than samples=4"),
        ({"cons_at": [True]}, r"^cons_at\[0\]=True must be a whole number"),
        ({"tasks": []}, "^tasks needs at least one"),
        ({"tasks": [PAIRS, PAIRS]}, "^tasks: two .*'pair_sum'"),
        ({"rewards": [EVEN | {"tasks": ["legz"]}]}, "there is no task 'legz'"),
        ({"rewards": [{"function": f"{__name__}:needs_legs"}]}, "task 'pair_sum': reward 'needs_legs' .*legs"),
        ({"template": "nothing"}, "nothing"),
        ({"engine": {"slots": 0}}, r"^engine\.slots=0 must be at least 1"),
        ({"tempreature": 1.0}, "^there is no key 'tempreature'; near it: temperature"),
        ({"init": {"kind": "stage"}}, r"^the key 'init\.path' is missing"),
    ],
)
def test_bad_input_is_named_before_anything_is_loaded(changes, words):
    with pytest.raises(ValueError, match=words):
        evaluate.check(tiny_config(**changes))


def test_too_few_distinct_heldout_problems_are_an_error(tmp_path):
    tiny = PAIRS | {"config": {"count": 3, "low": 1, "high": 12, "heldout_fraction": 0.02}}
    with pytest.raises(ValueError, match="problems=20: task 'pair_sum' has only about"):
        evaluate.check(tiny_config(tasks=[tiny], problems=20))


def test_a_prompt_over_the_budget_is_named_before_anything_is_sampled(tmp_path):
    with pytest.raises(ValueError, match="max_prompt_tokens=5"):
        evaluate.main(tiny_config(max_prompt_tokens=5), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()
