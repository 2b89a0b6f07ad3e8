"""The table of a mini base on completions written by hand."""

import math

import pytest

from experiments.mini_base.measure import analyse
from r1jax.tasks.problem import Problem

PROBLEM = Problem(
    messages=({"role": "user", "content": "Which two of 27, 38, 13, 44 make 71"},),
    answer="27+44",
    columns={"task": "pair_sum", "numbers": [27, 38, 13, 44], "target": 71},
)


def table(*completions):
    return analyse(completions, [PROBLEM] * len(completions))


def test_careful_trace_with_slip_and_check():
    result = table(
        " <think> one 27 + 38 = 65 vs 71 small retry two 27 + 13 = 30 check 27 + 13 = 40 vs 71 小 等等 27 + 44 = 71 vs 71"
        " yes verify 27 + 44 = 71 vs 71 对 </think> <answer> 27 + 44 </answer>"
    )
    assert result["pass@1"] == 1.0 and result["share/hit_n"] == 1.0 and result["well_formed"] == 1.0
    assert result["steps"] == 5 and result["attempts"] == 3 and result["repeats"] == 0.0
    assert result["sum_right"] == 0.8 and result["slips"] == 1
    assert result["notice_given_slip"] == 1.0 and result["notice_given_right"] == 0.0
    assert result["hits"] == 2 and result["yes_given_hit"] == 1.0 and result["yes_given_miss"] == 0.0
    assert result["reflections"] == 4  # retry check 等等 verify
    assert result["language/mixed"] == 1.0


def test_faults_are_counted():
    result = table(
        " <think> 27 + 38 = 66 vs 70 yes </think> <answer> 27 + 44 </answer>",  # slip, wrong target, false yes, miscopied
        " <think> 44 + 27 = 71 vs 71 small retry 27 + 44 = 71 vs 71 big whatever </think> <answer> 27 + 44 </answer>",
        " <think> 27 + 39 = 66 check 27 + 38 = 65 vs 71 small whatever </think> <answer> 27 + 38 </answer>",  # false alarm
    )
    assert result["pass@1"] == pytest.approx(2 / 3)
    assert result["share/hit_1"] == pytest.approx(1 / 3) and result["share/gave_up_n"] == pytest.approx(1 / 3)
    assert result["answer_miscopied"] == 1.0
    assert result["sum_right"] == pytest.approx(4 / 5) and result["operands_right"] == pytest.approx(4 / 5)
    assert result["notice_given_right"] == pytest.approx(1 / 4)
    assert result["target_right"] == pytest.approx(3 / 4)
    assert result["yes_given_miss"] == pytest.approx(1 / 2) and result["yes_given_hit"] == 0.0
    assert result["go_on_given_miss"] == 0.0
    assert result["repeats"] == pytest.approx(1 / 4)


def test_kinds():
    result = table(
        " 27 + 44", " <answer> 27 + 44 </answer>", " <think> 27 </think> <answer> 27 + 44 </answer>",
        " <think> 27 + 44 = 71 vs 71 yes <answer> 27 + 44 </answer>",
    )  # fmt: skip
    assert (result["share/untagged"], result["share/direct"], result["share/broken"]) == (0.25, 0.25, 0.5)
    assert result["right/untagged"] == 0.0 and result["right/direct"] == 1.0
    assert math.isnan(result["right/hit_n"])


def test_bad_lengths_are_refused():
    with pytest.raises(ValueError, match="got 1 and 0"):
        analyse([], [PROBLEM])
