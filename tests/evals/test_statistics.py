import itertools
import math
import subprocess
import sys

import pytest

from r1jax.evals.statistics import (
    ProblemSamples,
    cons_at_k,
    g_pass_at_k,
    mean_interval,
    mg_pass_at_k,
    paired_difference,
    paired_test,
    pass_at_k,
    sampling_interval,
    share_interval,
    summarise,
    vote_metrics,
    with_interval,
)
from tests.evals.coverage import coverage_of_differences, coverage_of_samples, coverage_of_shares


def samples(answers, correct, *, num_tokens=None, well_formed=None):
    return ProblemSamples(
        answers=tuple(answers),
        correct=tuple(correct),
        num_tokens=tuple(num_tokens or [10] * len(answers)),
        well_formed=tuple(well_formed or [True] * len(answers)),
    )


@pytest.mark.parametrize(
    ("num_samples", "num_correct", "k", "want"),
    [
        (4, 0, 2, 0.0),
        (4, 4, 2, 1.0),
        (4, 1, 1, 0.25),
        (4, 1, 2, 0.5),  # 1 - 3/6
        (5, 2, 3, 0.9),  # 1 - 1/10
        (16, 1, 16, 1.0),  # one right among all that are drawn
        (10, 8, 3, 1.0),  # three draws cannot all be wrong
    ],
)
def test_pass_at_k_literal(num_samples, num_correct, k, want):
    assert pass_at_k(num_samples, num_correct, k) == want


def test_pass_at_k_is_exact_for_many_samples():
    # The complement is a product of 100 ratios (n-c-i)/(n-i).
    want = 1 - math.prod((990 - i) / (1000 - i) for i in range(100))
    assert pass_at_k(1000, 10, 100) == pytest.approx(want, rel=1e-12)
    assert pass_at_k(100_000, 1, 1) == 1e-5


def test_pass_at_k_is_unbiased():
    # Over all outcomes of 4 draws of a coin that is right with 0.3, the mean estimate of pass@2 is 1 - 0.7^2.
    mean = sum(
        0.3 ** sum(coins) * 0.7 ** (4 - sum(coins)) * pass_at_k(4, sum(coins), 2)
        for coins in itertools.product([0, 1], repeat=4)
    )
    assert mean == pytest.approx(0.51, abs=1e-12)


def test_pass_at_k_refuses_what_cannot_be():
    with pytest.raises(ValueError, match=r"k must lie in 1..4 .* got 5"):
        pass_at_k(4, 1, 5)
    with pytest.raises(ValueError, match=r"k must lie in 1..4 .* got 0"):
        pass_at_k(4, 1, 0)
    with pytest.raises(ValueError, match=r"num_correct must lie in 0..4, got 5"):
        pass_at_k(4, 5, 2)


@pytest.mark.parametrize(
    ("answers", "right", "want"),
    [
        (["7", "7", "8"], "7", 1.0),
        (["7", "8", "8"], "7", 0.0),
        (["7", "8"], "7", 0.5),  # tie of two
        (["7", "7", "8", "8", "9", "9"], "9", 1 / 3),  # tie of three
        (["7", "7", "8", "8", "9"], "9", 0.0),  # tie that the right answer is not in
        ([None, None, None, "7"], "7", 1.0),  # a missing answer has no vote
        ([None, None, "8", "7"], "7", 0.5),
        ([None, None], "7", 0.0),
        (["7"], "7", 1.0),
    ],
)
def test_cons_by_majority_over_all_samples(answers, right, want):
    correct = [answer == right for answer in answers]
    assert cons_at_k(answers, correct, len(answers)) == pytest.approx(want, abs=1e-12)
    assert cons_at_k(answers[::-1], correct[::-1], len(answers)) == pytest.approx(want, abs=1e-12)


def test_cons_worth_of_an_answer_judged_differently():
    assert cons_at_k(["7", "7", "8"], [True, False, True], 3) == 0.5


def test_cons_over_subsets_is_exact_where_they_are_few():
    # 3 of (7, 7, 8, 8): {7,7,8} twice, {7,8,8} twice. 2 of (7, 7, 8): {7,7} once, {7,8} twice at 1/2.
    assert cons_at_k(["7", "7", "8", "8"], [True, True, False, False], 3) == 0.5
    assert cons_at_k(["7", "7", "8"], [True, True, False], 2) == pytest.approx(2 / 3)
    # k = 1 is the mean.
    assert cons_at_k(["7", None, "8", "9"], [True, False, False, False], 1) == 0.25


def test_cons_over_random_subsets():
    answers = ["7"] * 12 + ["8"] * 9 + [None] * 3
    correct = [answer == "7" for answer in answers]
    exact = cons_at_k(answers, correct, 3, max_subsets=math.comb(24, 3))
    got = cons_at_k(answers, correct, 3, seed=1, max_subsets=2000)
    # Counted by (7s, 8s, Nones): (3,0,0) 220, (2,1,0) 594, (2,0,1) 198, (1,0,2) 36, half of (1,1,1) 324.
    assert exact == pytest.approx(1210 / 2024, abs=1e-12)
    assert got != exact
    assert got == pytest.approx(exact, abs=0.03)  # 3 standard errors of 2000 draws
    assert cons_at_k(answers, correct, 3, seed=1, max_subsets=2000) == got
    assert cons_at_k(answers, correct, 3, seed=2, max_subsets=2000) != got


def test_cons_errors():
    with pytest.raises(ValueError, match="2 answers but 1 judgements"):
        cons_at_k(["7", "8"], [True], 2)
    with pytest.raises(ValueError, match=r"k must lie in 1..2"):
        cons_at_k(["7", "8"], [True, False], 3)


def test_g_pass_at_k_literal():
    # 5 of 10 right, 4 drawn of 210: at least 2 right in 210 - 5 - 50 = 155 ways, 3 in 55, all 4 in 5.
    assert [g_pass_at_k(10, 5, 4, tau) for tau in (0.5, 0.75, 1.0)] == [155 / 210, 55 / 210, 5 / 210]
    assert g_pass_at_k(10, 5, 4, 0.0) == g_pass_at_k(10, 5, 4, 0.25) == pass_at_k(10, 5, 4)
    assert mg_pass_at_k(10, 5, 4) == pytest.approx(2 / 4 * (55 + 5) / 210)
    assert mg_pass_at_k(16, 16, 8) == 1.0 and mg_pass_at_k(16, 0, 8) == 0.0
    assert mg_pass_at_k(16, 16, 5) == pytest.approx(1 - 1 / 5)  # as published: the sum has two terms of 2/5


def test_g_pass_at_k_counts_all_draws():
    """Against every subset that can be drawn."""
    assert g_pass_at_k(25, 7, 25, 0.28) == 1.0  # seven of 25, though 0.28 * 25 is above 7 in binary
    for num_correct in range(13):
        for k, tau, needed in ((3, 0.5, 2), (10, 0.7, 7), (12, 0.25, 3), (5, 0.01, 1)):
            draws = list(itertools.combinations([True] * num_correct + [False] * (12 - num_correct), k))
            want = sum(sum(draw) >= needed for draw in draws) / len(draws)
            assert g_pass_at_k(12, num_correct, k, tau) == pytest.approx(want, abs=1e-12)


def test_g_pass_at_k_refuses():
    with pytest.raises(ValueError, match=r"tau must lie in \[0, 1\], got 1.5"):
        g_pass_at_k(4, 2, 2, 1.5)
    with pytest.raises(ValueError, match="k must lie in 1..4"):
        g_pass_at_k(4, 2, 5, 0.5)
    with pytest.raises(ValueError, match="k must be at least 2"):
        mg_pass_at_k(4, 2, 1)


def test_share_interval_of_single_answers_is_wilson_s():
    # Wilson 1927; 3 of 10, z = 1.959964: [0.107791, 0.603222]; 0 of 10: z^2 / (10 + z^2) = 0.277533.
    low, high = share_interval([1.0] * 3 + [0.0] * 7)
    assert (low, high) == (pytest.approx(0.107791, abs=1e-6), pytest.approx(0.603222, abs=1e-6))
    assert share_interval([0.0] * 10) == (0.0, pytest.approx(0.277533, abs=1e-6))
    assert share_interval([1.0] * 10) == (pytest.approx(1 - 0.277533, abs=1e-6), 1.0)


def test_share_interval_narrows_where_problems_are_alike():
    single, mixed, alike = share_interval([1, 0] * 15), share_interval([0.8, 0.2] * 15), share_interval([0.5] * 30)
    assert single[1] - single[0] > mixed[1] - mixed[0] > alike[1] - alike[0] > 0.01
    low, high = share_interval([0.3] * 500 + [0.7] * 500)  # large samples: 0.5 -+ 1.96 * 0.2 / sqrt(1000)
    assert (low, high) == (pytest.approx(0.4876, abs=3e-4), pytest.approx(0.5124, abs=3e-4))
    assert share_interval([0.5]) == (0.0, 1.0)  # one problem of middling difficulty says nothing of others


def test_sampling_interval_keeps_the_problems():
    # 2 problems, 101 samples each, rates 50/101 and 1: variance of the mean (p (1-p) / 100) / 4.
    low, high = sampling_interval([101, 101], [50, 101])
    half = 1.96 * (50 / 101 * 51 / 101 / 100 / 4) ** 0.5
    assert (low, high) == (pytest.approx((151 / 202) - half, abs=0.004), pytest.approx((151 / 202) + half, abs=0.004))
    assert share_interval([50 / 101, 1.0])[0] < low
    assert sampling_interval([4] * 5, [0] * 5) == (0.0, pytest.approx(0.161125, abs=1e-5))  # Wilson, 0 of 20
    with pytest.raises(ValueError, match="one sample of a problem"):
        sampling_interval([4, 1], [1, 1])
    with pytest.raises(ValueError, match="got 2, 1"):
        sampling_interval([4, 4], [1])


def test_interval_of_other_values_is_student_s():
    # mean -0.5, deviation 0.1 of 3, t(2) = 4.302653: half 0.248414
    assert mean_interval([-0.4, -0.5, -0.6]) == (
        pytest.approx(-0.748414, abs=1e-6),
        pytest.approx(-0.251586, abs=1e-6),
    )
    assert mean_interval([-3.0]) is None and with_interval("reward", [-3.0]) == {"reward": -3.0}
    assert with_interval("reward", [0.0, 0.0])["reward_high"] > 0.5  # shares, of two problems


def test_interval_errors():
    for values in ([], [0.5, float("nan")]):
        for interval in (share_interval, mean_interval):
            with pytest.raises(ValueError, match="finite values"):
                interval(values)
    with pytest.raises(ValueError, match=r"shares must lie in \[0, 1\], got -0.5 to 1.0"):
        share_interval([-0.5, 1.0])


def test_paired_difference():
    # Five problems only the first model solves, one only the second: McNemar 2 * (1 + 6) / 2^6.
    found = paired_difference([1] * 5 + [0] + [1] * 4, [0] * 5 + [1] + [1] * 4)
    assert found.value == pytest.approx(0.4)
    assert paired_test([1] * 5 + [0] + [1] * 4, [0] * 5 + [1] + [1] * 4) == pytest.approx(14 / 64)
    # squares 6 - 10 * 0.16 = 4.4, and 0.1: variance 4.5 / 9.1, t(9) = 2.262157
    half = 2.262157 * (4.5 / 9.1 / 10) ** 0.5
    assert (found.low, found.high) == (pytest.approx(0.4 - half, abs=1e-6), pytest.approx(0.4 + half, abs=1e-6))
    same = paired_difference([0.0] * 10, [0.0] * 10)
    assert same.value == 0.0 and same.low < -0.07 and same.high > 0.07
    assert paired_test([0.0] * 10, [0.0] * 10) == 1.0
    finer = paired_difference([0.0] * 10, [0.0] * 10, samples=16)
    assert finer.high == pytest.approx(same.high / 4)
    alone = paired_difference([1.0], [0.0])
    assert (alone.low, alone.high) == (-1.0, 1.0)


def test_paired_difference_of_many_problems():
    better, worse = [0.75] * 40 + [0.25] * 20, [0.5] * 40 + [0.5] * 20
    found = paired_difference(better, worse, samples=4)
    assert found.low > 0
    # 40 of 60 equal differences have one sign: twice the binomial tail is 0.0135
    assert paired_test(better, worse) == pytest.approx(0.0135, abs=0.004)
    assert paired_test(better, worse) == paired_test(better, worse, seed=0) == paired_test(worse, better)
    assert paired_difference(worse, better, samples=4).value == -found.value
    with pytest.raises(ValueError, match="60 and 59 scores"):
        paired_difference(better, worse[:-1])
    with pytest.raises(ValueError, match="scores must lie"):
        paired_difference([1.5], [0.0])


@pytest.mark.parametrize("num_problems", [10, 30, 100])
@pytest.mark.parametrize("num_samples", [1, 4, 16])
def test_intervals_hold_the_truth_as_often_as_they_say(num_problems, num_samples):
    """2,000 made experiments each; three standard errors of 2,000 are 1.5 points."""
    arguments = {"num_problems": num_problems, "num_samples": num_samples, "experiments": 2000, "seed": 1}
    assert coverage_of_shares(**arguments) == pytest.approx(0.95, abs=0.015)
    few = num_problems == 10 and num_samples == 1  # where about one pair in ten differs the interval is too wide
    assert coverage_of_differences(**arguments) == pytest.approx(0.96 if few else 0.95, abs=0.015)
    if num_samples > 1:
        assert coverage_of_samples(**arguments) == pytest.approx(0.95, abs=0.015)


def test_summarise_literal():
    problems = [
        samples(["7", "7", "8", None], [1, 1, 0, 0], num_tokens=[1, 2, 3, 6], well_formed=[1, 1, 1, 0]),
        samples(["1", "2", "2", "3"], [1, 0, 0, 0], num_tokens=[5, 5, 5, 5]),
        samples(["1", "2", "3", "4"], [0, 0, 0, 0], num_tokens=[7, 7, 7, 7]),
    ]
    got = summarise(problems, k=4)
    assert set(got) == {
        *("pass@1", "pass@1_low", "pass@1_high"),
        *("cons@4", "cons@4_low", "cons@4_high"),
        *("pass@4", "mean_length", "format"),
    }
    assert got["pass@1"] == pytest.approx((0.5 + 0.25 + 0) / 3)
    assert got["cons@4"] == pytest.approx(1 / 3)
    assert got["pass@4"] == pytest.approx(2 / 3)
    assert got["mean_length"] == pytest.approx(5.0)
    assert got["format"] == pytest.approx(11 / 12)
    assert (got["pass@1_low"], got["pass@1_high"]) == share_interval([0.5, 0.25, 0.0])
    assert 0 < got["pass@1_low"] < got["pass@1"] < got["pass@1_high"] < 1
    assert all(type(value) is float for value in got.values())


def test_summarise_problems_of_different_sample_counts_weigh_the_same():
    problems = [samples(["7"] * 2, [1, 1]), samples(["8"] * 6, [0] * 6)]
    got = summarise(problems, k=2)
    assert got["pass@1"] == got["cons@2"] == got["pass@2"] == 0.5


def test_summarise_errors():
    with pytest.raises(ValueError, match="no problems"):
        summarise([], k=1)
    with pytest.raises(ValueError, match="problem 1 has 2 samples, fewer than k=3"):
        summarise([samples(["7"] * 3, [1] * 3), samples(["7"] * 2, [1] * 2)], k=3)
    with pytest.raises(ValueError, match="common length"):
        samples(["7", "8"], [True])


def test_votes_of_several_sizes_and_what_they_add():
    right, wrong = ("7",) * 3 + ("5",), ("4", "5", "4", "7")
    problems = [
        ProblemSamples(right, (True, True, True, False), (1,) * 4, (True,) * 4),
        ProblemSamples(wrong, (False, False, False, True), (1,) * 4, (True,) * 4),
    ]
    found = vote_metrics(problems, [1, 4])
    assert found["cons@1"] == pytest.approx(0.5)  # 3/4 and 1/4
    assert found["cons@4"] == pytest.approx(0.5)  # 7 wins the first, 4 the second
    gains = vote_metrics(problems, [1, 4], with_gains=True)
    assert {name: gains[name] for name in found} == found
    assert gains["cons@1_gain"] == gains["cons@1_gain_low"] == gains["cons@1_gain_high"] == pytest.approx(0.0)
    assert gains["cons@4_gain"] == pytest.approx((0.25 - 0.25) / 2)
    assert (gains["cons@4_gain_low"], gains["cons@4_gain_high"]) == (-1.0, 1.0)  # two problems say nothing
    many = vote_metrics(problems * 50, [4], with_gains=True)
    half = 1.984217 * ((100 * 0.0625 + 0.1) / 99.1 / 100) ** 0.5  # t(99)
    assert (many["cons@4_gain_low"], many["cons@4_gain_high"]) == (pytest.approx(-half), pytest.approx(half))
    assert vote_metrics(problems[:1], [4], with_gains=True)["cons@4_gain"] == pytest.approx(0.25)
    with pytest.raises(ValueError, match="k must lie in 1..4"):
        vote_metrics(problems, [5])


def test_needs_no_jax():
    code = "import sys, r1jax.evals.statistics; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
