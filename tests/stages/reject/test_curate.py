"""Every sample is kept or has a reason: the order of the steps, the check of what was rewritten, and a model that is away."""

import collections
import dataclasses

import numpy as np
import pytest

from r1jax.rollout.records import Completion, Group, Rollout
from r1jax.specs.reader import read
from r1jax.specs.rewards import AskSpec
from r1jax.stages.reject.curate import Steps, curate, fates_of, make_step
from r1jax.tasks.problem import GradingError, Problem
from r1jax.text.sample import ChatError, Rejection, r1_text

HERE = __name__


class Task:
    name = "sums"

    def grade(self, answer, problem):
        if answer == "?":
            raise GradingError("the verifier broke")
        return float(answer == problem.answer)


def group(*texts, question="2+2?", task="sums"):
    """A problem with the answer 4, and rollouts of texts; those that end with "4" are correct."""
    problem = Problem(({"role": "user", "content": question},), "4", {"task": task})
    return Group(
        problem,
        tuple(
            Rollout(
                prompt_ids=np.zeros(1, np.int32),
                completion=Completion(np.arange(3, dtype=np.int32), np.zeros(3, np.float32), "stop"),
                text=text,
                policy_version=0,
                rewards={"format": 1.0, "other": float("nan")},
                reward=1.0,
                is_correct=text.endswith("4"),
                answer=text[-1:],
            )
            for text in texts
        ),
    )


def no_noise(sample, *, word="noise"):
    return word if word in sample.text else None


def breaks(sample):
    if "break" in sample.text:
        raise KeyError("hm")


def judge(samples, *, chat, seed, of=None):
    marks = {"bad": "incorrect", "odd": Rejection("judge: no JSON verdict"), "slow": ChatError("out of time")}
    found = [next((mark for word, mark in marks.items() if word in s.text), "correct") for s in samples]
    return [{"analysis": "", "correctness": mark} if isinstance(mark, str) else mark for mark in found]


def rewrite(samples, *, chat, seed):
    answers = {"lie": "5", "vague": "?", "form": ""}
    found = [next((answer for word, answer in answers.items() if word in s.text), s.answer) for s in samples]
    return [
        Rejection("rewrite: unreadable notes") if "mess" in s.text else r1_text(f"I think {seed}", answer or "")
        for s, answer in zip(samples, found, strict=True)
    ]


def run(groups, *, filters=(), judge=None, rewriter=None, keep=99, style="r1_zero"):
    def step(values):
        return None if values is None else make_step(read(AskSpec, values))

    steps = list(map(step, filters))
    fates = fates_of(groups, range(10, 10 + len(groups)), style=style)
    curate(fates, Steps(steps, step(judge), step(rewriter)), keep_per_prompt=keep, task=Task(), seed=7)
    assert all((fate.reason is None) == (fate.content is not None) for fate in fates)
    return fates, steps


CORRECT = {"function": "r1jax.rewards.filters:correct"}
JUDGE, REWRITE = {"function": f"{HERE}:judge"}, {"function": f"{HERE}:rewrite"}


def test_the_first_reason_in_the_order_of_the_steps():
    texts = [
        "noise 5",
        "5",
        "a 4",
        "a  4",
        "bad 4",
        "odd 4",
        "slow 4",
        "lie 4",
        "vague 4",
        "form 4",
        "mess 4",
        "break 4",
        "b 4",
        "c 4",
    ]
    filters = [{"function": f"{HERE}:no_noise"}, CORRECT, {"function": f"{HERE}:breaks"}]
    fates, steps = run([group(*texts), group("a 4")], filters=filters, judge=JUDGE, rewriter=REWRITE, keep=6)
    assert [fate.reason for fate in fates] == [
        "noise", "wrong answer", None, "duplicate", "judge: incorrect", "judge: no JSON verdict", "judge: ChatError",
        "rewrite: another answer", "rewrite: GradingError", "rewrite: ill-formed", "rewrite: unreadable notes",
        f"filter {HERE}:breaks: KeyError", None, "more than keep_per_prompt", None,
    ]  # fmt: skip
    assert fates[6].message.endswith("ChatError: out of time") and fates[11].message == "KeyError: 'hm'"
    assert [(fate.prompt, fate.number) for fate in fates[-2:]] == [(10, 13), (11, 0)]
    assert fates[2].content == "<think>\nI think 7\n</think>\n\n4"
    assert fates[2].verdicts(steps) == {
        "correct": True,
        "filters": [step.spec.function for step in steps],
        "rewards": {"format": 1.0, "other": None},
        "judge": {"analysis": "", "correctness": "correct"},
    }


def test_steps_are_for_their_tasks_and_options_reach_them():
    groups = [group("noise 4", "hum 4", "bad 4"), group("noise 4", "hum 4", "bad 4", task="other")]
    filters = [{"function": f"{HERE}:no_noise", "options": {"word": "hum"}, "tasks": ["sums"]}]
    fates, steps = run(
        groups, filters=filters, judge=JUDGE | {"tasks": ["other"]}, rewriter=REWRITE | {"tasks": ["other"]}
    )
    assert [fate.reason for fate in fates] == [None, "hum", None, None, None, "judge: incorrect"]
    assert fates[0].content == "noise 4" and "I think" in (fates[3].content or "")
    assert fates[3].verdicts(steps)["filters"] == [] and fates[0].verdicts(steps)["judge"] is None


def test_without_a_rewriter_an_answer_in_the_form_of_r1_gets_both_tags():
    fates, _ = run([group("hm\n</think>\n\nso 4", "4")], style="r1")
    assert [fate.content for fate in fates] == ["<think>\nhm\n</think>\n\nso 4", "4"]


def test_a_model_that_fails_on_all_stops_the_run_and_on_one_does_not(capsys):
    with pytest.raises(ChatError, match="judge .*:judge failed on all 2 samples: out of time; what was done is kept"):
        run([group("slow 4", "slow 14")], judge=JUDGE)
    assert [fate.reason for fate in run([group("slow 4")], judge=JUDGE)[0]] == ["judge: ChatError"]
    assert "judge: 1 of 1 failed: out of time" in capsys.readouterr().err


def test_a_function_that_returns_too_few_is_named():
    with pytest.raises(ValueError, match="rewrite .*:few: returned 0 results for 1 samples"):
        run([group("4")], rewriter={"function": f"{HERE}:few"})


def few(samples, *, chat, seed):
    return []


def test_a_function_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="has no 'nothing'"):
        make_step(read(AskSpec, {"function": f"{HERE}:nothing"}))


def test_counts_add_up():
    fates, _ = run([group("4", "4", "5")] * 2, filters=[CORRECT])
    assert collections.Counter(fate.reason for fate in fates) == {None: 2, "duplicate": 2, "wrong answer": 2}


def test_a_chinese_problem_under_an_english_instruction_keeps_its_chinese_answers():
    given = group("二加二等于 4", "two and two make 4", question="求和。\n\nThink, and say what it is that is done.")
    problem = dataclasses.replace(given.problem, question="求和。")
    asked = {"function": "r1jax.rewards.filters:language_of_question"}
    fates, _ = run([dataclasses.replace(given, problem=problem)], filters=[asked])
    assert [fate.reason for fate in fates] == [None, "other language"]
