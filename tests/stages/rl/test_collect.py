"""What a phase is made of: refills, what they drop, failed rewards, prompts that are too long."""

import dataclasses
import math
import types

import numpy as np
import pytest

from r1jax.data.prompts import PromptIterator
from r1jax.rollout.collect import Collected
from r1jax.rollout.records import Completion, Group, Rollout
from r1jax.stages.rl.log import count_tokens
from r1jax.stages.rl.phase import Phase, check_scored, collect_groups, skipped_metrics
from r1jax.tasks.problem import Problem
from tests.stages.rl.test_stage import tiny_config

NAN = math.nan


def make_group(rewards, *, name="r", errors="no", reasons=None):
    """A group of these rewards; NaN is a verifier's failure."""
    reasons = reasons or ["stop"] * len(rewards)
    completions = [Completion(np.array([1, 2], np.int32), np.zeros(2, np.float32), reason) for reason in reasons]
    rollouts = [
        Rollout(np.array([1]), completion, "", 0, {name: r}, r, r == 1, None, {name: errors} if r != r else {})
        for r, completion in zip(rewards, completions, strict=True)
    ]
    return Group(Problem(({"role": "user", "content": "?"},), "", {"task": "t"}), tuple(rollouts))


class FakeCollector:
    """Gives batches of groups in turn."""

    def __init__(self, *batches):
        self.batches = iter(batches)
        self.rubric = types.SimpleNamespace(weights={"a": 1.0, "b": 1.0})

        self.asked = []

    def start(self, params, buffers, problems, **settings):
        self.asked.append(len(problems))
        return lambda: self.collected(next(self.batches))

    def collected(self, groups):
        return Collected(
            groups,
            {"generate": 1.0, "rewards": 0.5},
            {"rewards/r/errors": 1, "rewards/r/timeouts": 0, "rewards/r/seconds": 0.25},
        )


def collect(collector, *, questions=2, **changes):
    state = {"params": None, "buffers": None}
    config = tiny_config(questions_per_phase=questions, **changes)
    prompts = types.SimpleNamespace(take_indexed=lambda count: [(0, None)] * count)
    return collect_groups(collector, state, prompts, config, updates=0)


def rewards_of(groups):
    return [[r.reward for r in group.rollouts] for group in groups]


def test_refills_replace_groups_that_teach_nothing_and_keep_what_they_drop():
    batches = [make_group([0, 0]), make_group([0, 1])], [make_group([1, 1])], [make_group([1, 0])], []
    phase = collect(FakeCollector(*batches), max_refills=3)
    assert rewards_of(phase.groups) == [[0, 1], [1, 0]]
    assert rewards_of(phase.dropped) == [[1, 1], [0, 0]]
    assert phase.seconds == {"generate": 3.0, "rewards": 1.5}
    assert phase.metrics == {
        "frac_reward_zero_std": 0.5,
        "num_questions_sampled": 4,
        "rewards/r/errors": 3,
        "rewards/r/timeouts": 0,
        "rewards/r/seconds": 0.75,
        "sampling/evictions": 0.0,
    }
    assert count_tokens(phase.groups + phase.dropped) == 8 * 3


def test_attempts_that_run_out_leave_the_latest_groups():
    batches = [make_group([0, 0]), make_group([1, 1])], [make_group([0, 1]), make_group([2, 2])]
    phase = collect(FakeCollector(*batches), max_refills=1)
    assert rewards_of(phase.groups) == [[0, 1], [2, 2]]
    assert rewards_of(phase.dropped) == [[0, 0], [1, 1]]


def test_a_refill_asks_for_what_is_missing():
    first = [make_group([0, 1])] * 2 + [make_group([0, 0])] * 3
    fake = FakeCollector(first, [make_group([0, 0]), make_group([0, 1]), make_group([1, 0])], [make_group([1, 0])])
    phase = collect(fake, questions=5, max_refills=5, updates_per_phase=1)
    assert fake.asked == [5, 3, 1]
    assert len(phase.groups) == 5 and rewards_of(phase.dropped) == [[0, 0]] * 4


def test_a_reward_may_decide_on_refills():
    completion = Completion(np.array([1], np.int32), np.zeros(1, np.float32), "stop")

    def group(*pairs):
        rollouts = [Rollout(np.array([1]), completion, "", 0, {"a": a, "b": b}, a + b, False, None) for a, b in pairs]
        return Group(Problem((), "", {"task": "t"}), tuple(rollouts))

    by_style, by_answer = group((1.0, 0.0), (1.0, 0.5)), group((0.0, 0.0), (1.0, 0.0))
    assert len(collect(FakeCollector([by_style] * 2), max_refills=1).groups) == 2
    phase = collect(FakeCollector([by_style] * 2, [by_answer] * 2), max_refills=1, refill_reward="a")
    assert phase.groups == [by_answer] * 2 and phase.dropped == [by_style] * 2
    assert phase.metrics["frac_reward_zero_std"] == 0.0  # what is trained on has a signal in all of them


def test_a_reward_that_joins_later_decides_from_then_on():
    groups = [make_group([0, 1]), make_group([1, 0])]
    phase = collect(FakeCollector(groups), max_refills=1, refill_reward="late")
    assert phase.groups == groups and not phase.dropped


def test_what_rewards_log_is_a_mean_over_all_groups_of_a_phase():
    class Logging(FakeCollector):
        def collected(self, groups):
            values = [float(len(self.asked))] * len(groups)
            return dataclasses.replace(super().collected(groups), logged={"rewards/r/hits": values})

    phase = collect(Logging([make_group([0, 0]), make_group([0, 1])], [make_group([1, 0])]), max_refills=1)
    assert phase.metrics["rewards/r/hits"] == pytest.approx((1 + 1 + 2) / 3)


def test_masked_outputs_make_no_group_teach():
    cut = make_group([1, 1, 0], reasons=["stop", "stop", "length"])
    assert collect(FakeCollector([cut, cut])).metrics["frac_reward_zero_std"] == 0.0
    phase = collect(
        FakeCollector([cut, make_group([1, 0, 0])], [make_group([0, 1, 1])]), mask_truncated=True, max_refills=1
    )
    assert phase.dropped == [cut] and phase.metrics["frac_reward_zero_std"] == pytest.approx(1 / 3)


def test_a_group_with_one_reward_left_is_refilled():
    batches = [make_group([NAN, 1]), make_group([0, 1])], [make_group([1, 0])]
    phase = collect(FakeCollector(*batches), max_refills=1)
    assert rewards_of(phase.groups) == [[0, 1], [1, 0]] and len(phase.dropped) == 1


def test_rewards_that_cancel_out_teach_where_each_is_normalised_by_itself():
    completion = Completion(np.array([1], np.int32), np.zeros(1, np.float32), "stop")
    problem = Problem((), "", {"task": "t"})
    both = [Rollout(np.array([1]), completion, "", 0, {"a": float(a), "b": 1.0 - a}, 1.0, False, None) for a in (0, 1)]
    groups = [Group(problem, tuple(both)), Group(problem, (both[0], both[0]))]
    summed = collect(FakeCollector(groups), max_refills=0)
    assert summed.metrics["frac_reward_zero_std"] == 1.0
    decoupled = collect(FakeCollector(groups), max_refills=0, multi_objective_aggregation="normalize_then_sum")
    assert decoupled.metrics["frac_reward_zero_std"] == 0.5


def test_a_reward_that_failed_on_all_is_named_with_its_first_message():
    phase = Phase([make_group([NAN, NAN], errors="gone"), make_group([NAN, NAN])], [], np.zeros((2, 2)), {}, {}, [])
    with pytest.raises(RuntimeError, match="reward 'r' failed on all 4 completions .* first time with: gone"):
        check_scored(phase, {"r": 1.0})
    check_scored(phase, {"r": 0.0})
    check_scored(phase._replace(groups=[make_group([NAN, NAN]), make_group([NAN, 0.0])]), {"r": 1.0})
    check_scored(phase._replace(dropped=[make_group([0.0, 0.0])]), {"r": 1.0})
    # Where the reward applies to one group only, its problem may be at fault.
    other = make_group([1.0, 0.0], name="s")
    for rollout in other.rollouts:
        rollout.rewards["r"] = NAN
    check_scored(phase._replace(groups=[make_group([NAN, NAN]), other]), {"r": 1.0})
    with pytest.raises(RuntimeError, match="'r' failed on all 4"):
        check_scored(phase._replace(groups=[*phase.groups, other]), {"r": 1.0})


class Lengths:
    """Problems whose question is so many letters; those of more than 3 are too long."""

    name = "lengths"

    def problem(self, index, *, split):
        return Problem(({"role": "user", "content": "x" * (index % 5)},), "", {"task": self.name})

    def fits(self, problem):
        return len(problem.messages[-1]["content"]) <= 3


def test_prompts_that_are_too_long_are_passed_over_and_counted_also_after_a_restart(capsys):
    task = Lengths()
    prompts = PromptIterator(task, batch_size=8, seed=0, keep=task.fits)
    whole = []
    for _ in range(4):
        batch = next(prompts)
        assert len(batch) == 8 and all(map(task.fits, batch))
        whole.append((batch, skipped_metrics(prompts)))
        if len(whole) == 2:
            saved = prompts.get_state()
    assert sum(row["prompts/too_long"] for _, row in whole) == 8  # every fifth of 40
    assert "2 training prompt(s) longer than max_prompt_tokens skipped, the first: 'xxxx'" in capsys.readouterr().err
    restarted = PromptIterator(task, batch_size=8, seed=0, keep=task.fits)
    restarted.set_state(saved)
    assert [(next(restarted), skipped_metrics(restarted)) for _ in range(2)] == whole[2:]
