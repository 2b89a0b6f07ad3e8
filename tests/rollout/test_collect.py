import jax
import numpy as np
import pytest

from r1jax.rewards.rubric import Rubric
from r1jax.rollout.collect import Collector
from r1jax.rollout.types import Completion
from r1jax.tasks.types import GradingError, Problem

ANSWERS = ["<think>so</think> <answer>4</answer>", "<think>so</think> <answer>5</answer>"]


class Tokenizer:
    """One id a character; 0 ends a text, 1 begins one."""

    eos_id, pad_id, bos_id = 0, 0, None

    def encode(self, text):
        return [ord(c) for c in text]

    def decode(self, ids, *, skip_special_tokens=False):
        return "".join(chr(i) for i in ids)


class Task:
    name = "sums"

    def grade(self, answer, problem):
        if answer == "broken":
            raise GradingError("the verifier is out of order")
        return float(answer == problem.answer)

    def canonical(self, answer):
        return answer


class Engine:
    """Writes ANSWERS in turn; the last sample of a prompt has no end token."""

    def __init__(self, answers=ANSWERS):
        self.calls, self.answers = [], answers

    def generate(self, params, buffers, prompts, *, num_samples, **settings):
        self.calls.append((prompts, settings))
        return [[self._complete(i, i == num_samples - 1) for i in range(num_samples)] for _ in prompts]

    def _complete(self, i, is_cut):
        ids = [ord(c) for c in self.answers[i % len(self.answers)]] + [0] * (not is_cut)
        reason = "length" if is_cut else "stop"
        return Completion(np.array(ids, np.int32), np.full(len(ids), -0.5, np.float32), reason)


def has_answer(prompts, completions, answer, stop_reason, **columns):
    return [float(f"<answer>{a}</answer>" in c) for c, a in zip(completions, answer, strict=True)]


def sees_columns(prompts, completions, problem, task, completion_ids, hint=None, **columns):
    assert all(p.messages[-1]["content"] in text for p, text in zip(problem, prompts, strict=True))
    assert [len(ids) for ids in completion_ids] == [37, 37, 36] * len(set(prompts))
    return [None if h is None else 0.25 for h in hint]


def make_problem(question, answer, **columns):
    return Problem(({"role": "user", "content": question},), answer, {"task": "sums", **columns})


PROBLEMS = [make_problem("2+2=?", "4"), make_problem("2+3=?", "5", hint="count")]


def make_collector(engine, *, max_prompt_tokens=40, rewards=(has_answer, sees_columns)):
    rubric = Rubric([{"function": f, "weight": 1.0} for f in rewards])
    return Collector(engine, Tokenizer(), Task(), rubric, template="plain", max_prompt_tokens=max_prompt_tokens)


def collect(collector, problems=PROBLEMS, num_samples=3):
    return collector.collect(
        {}, {}, problems, num_samples=num_samples, max_new_tokens=50, temperature=0.7, key=jax.random.key(0),
        policy_version=6,
    )  # fmt: skip


def test_groups_are_scored_in_order():
    engine = Engine()
    collected = collect(make_collector(engine))
    first, second = collected.groups
    assert [group.problem.answer for group in collected.groups] == ["4", "5"]
    assert [r.rewards["has_answer"] for r in first.rollouts] == [1.0, 0.0, 1.0]
    assert [r.rewards["has_answer"] for r in second.rollouts] == [0.0, 1.0, 0.0]
    # A column that only the second problem has reaches the reward: None for the first.
    assert all(np.isnan(r.rewards["sees_columns"]) for r in first.rollouts)
    assert [r.reward for r in second.rollouts] == [0.25, 1.25, 0.25]
    # The task's own metric: a truncated response has no answer, whatever its text.
    assert [r.is_correct for r in first.rollouts] == [True, False, False]
    assert [r.answer for r in first.rollouts] == ["4", "5", None]
    assert [r.text for r in first.rollouts] == [ANSWERS[0], ANSWERS[1], ANSWERS[0]]  # without the end token
    assert {r.policy_version for r in first.rollouts} == {6}
    prompts, settings = engine.calls[0]
    np.testing.assert_array_equal(first.rollouts[2].prompt_ids, prompts[0])
    assert settings["stop_ids"] == (0,) and settings["temperature"] == 0.7 and settings["top_p"] is None
    assert set(collected.seconds) == {"generate", "rewards"}
    assert collected.reward_errors == {"has_answer": 0, "sees_columns": 0}


def test_a_prompt_over_the_budget_raises_before_anything_is_generated():
    engine = Engine()
    long = make_problem("1+" * 30 + "1=?", "31")
    with pytest.raises(ValueError, match=r"81 tokens, more than max_prompt_tokens=40: '1\+1"):
        collect(make_collector(engine), [PROBLEMS[0], long])
    assert engine.calls == []


def fails(prompts, completions, **columns):
    raise RuntimeError("no network")


def test_a_reward_that_raises_is_counted_and_the_completions_are_kept():
    collected = collect(make_collector(Engine(), rewards=(has_answer, fails)))
    assert collected.reward_errors == {"has_answer": 0, "fails": 6}
    assert "no network" in collected.error_messages["fails"]
    assert [r.reward for r in collected.groups[0].rollouts] == [1.0, 0.0, 1.0]
    assert collected.groups[0].rollouts[0].rewards["fails"] == 0.0


def test_a_task_that_cannot_grade_is_counted_and_stops_nothing():
    collected = collect(make_collector(Engine(["<answer>broken</answer>"] * 2), rewards=(has_answer,)))
    assert collected.reward_errors == {"has_answer": 0, "task_metric": 4}
    assert not any(r.is_correct for group in collected.groups for r in group.rollouts)


def test_a_reward_of_the_wrong_length_raises():
    collector = make_collector(Engine(), rewards=(lambda prompts, completions, **columns: [1.0],))
    with pytest.raises(ValueError, match="returned 1 scores for 6 completions"):
        collect(collector)


def test_bos_is_part_of_the_r1_zero_prompt_only():
    problem = PROBLEMS[0]
    collector = make_collector(Engine(), max_prompt_tokens=2000)
    with_bos = Tokenizer()
    with_bos.bos_id = 1
    ids = {}
    for template in ("plain", "r1_zero"):
        ids[template] = Collector(
            collector.engine, with_bos, collector.task, collector.rubric, template=template, max_prompt_tokens=2000
        ).encode(problem)
    assert ids["plain"][0] != 1 and ids["r1_zero"][0] == 1
