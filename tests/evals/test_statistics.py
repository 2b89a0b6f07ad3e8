import itertools
import math
import subprocess
import sys

import pytest

from r1jax.evals.statistics import (
    ProblemSamples,
    bootstrap_interval,
    cons_at_k,
    pass_at_k,
    summarise,
    vote_metrics,
)


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


def test_bootstrap_interval():
    values = [1.0] * 30 + [0.0] * 70
    low, high = bootstrap_interval(values, seed=0)
    # Normal approximation: 0.3 -+ 1.96 sqrt(0.3 x 0.7 / 100) = 0.210, 0.390.
    assert low == pytest.approx(0.21, abs=0.015)
    assert high == pytest.approx(0.39, abs=0.015)
    assert bootstrap_interval(values, seed=0) == (low, high)
    assert bootstrap_interval([0.5] * 7, seed=0) == (0.5, 0.5)


def test_bootstrap_errors():
    for values in ([], [0.5, float("nan")]):
        with pytest.raises(ValueError, match="finite values"):
            bootstrap_interval(values, seed=0)


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
    assert 0 <= got["pass@1_low"] < got["pass@1"] < got["pass@1_high"] <= 0.5
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
    assert (gains["cons@4_gain_low"], gains["cons@4_gain_high"]) == (pytest.approx(-0.25), pytest.approx(0.25))
    assert vote_metrics(problems[:1], [4], with_gains=True)["cons@4_gain"] == pytest.approx(0.25)
    with pytest.raises(ValueError, match="k must lie in 1..4"):
        vote_metrics(problems, [5])


def test_needs_no_jax():
    code = "import sys, r1jax.evals.statistics; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
