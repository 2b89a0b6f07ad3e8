import pytest

from r1jax.evals.estimates import Estimate, change_of_level, mean_difference, mean_over


def test_three_runs_and_more_give_student_s_interval():
    # mean 0.5, deviation 0.1, t(2) = 4.302653: half width 4.302653 * 0.1 / sqrt(3)
    found = mean_over([Estimate(0.4, 0.39, 0.41), Estimate(0.5), Estimate(0.6)])
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == (pytest.approx(0.251586, abs=1e-6), pytest.approx(0.748414, abs=1e-6))


def test_fewer_runs_keep_their_own_intervals():
    assert mean_over([Estimate(0.4, 0.3, 0.5)]) == Estimate(pytest.approx(0.4), pytest.approx(0.3), pytest.approx(0.5))
    two = mean_over([Estimate(0.2, 0.17, 0.23), Estimate(0.4, 0.36, 0.44)])  # half widths 0.03 and 0.04
    assert (two.value, two.low, two.high) == (pytest.approx(0.3), pytest.approx(0.275), pytest.approx(0.325))
    assert mean_over([Estimate(0.2), Estimate(0.4, 0.3, 0.5)]) == Estimate(pytest.approx(0.3))


def test_a_difference_is_of_pairs():
    """Seeds that differ much, with a difference that does not: over pairs the interval is narrow."""
    first, second = ([Estimate(value) for value in values] for values in ((0.9, 0.5, 0.1), (0.8, 0.41, 0.0)))
    found = mean_difference(first, second)
    assert found.value == pytest.approx(0.29 / 3) and found.is_above_zero
    one = mean_difference([Estimate(0.5, 0.47, 0.53)], [Estimate(0.4, 0.36, 0.44)])
    assert (one.low, one.high) == (pytest.approx(0.05), pytest.approx(0.15))
    assert mean_difference([Estimate(0.5)], [Estimate(0.4, 0.3, 0.5)]).is_above_zero is None
    with pytest.raises(ValueError, match="longer"):
        mean_difference([Estimate(0.5)], second[:2])


def test_a_change_of_level_by_welch():
    # deviations 1 and 2, of 4 and 3 values: error sqrt(1/4 + 4/3), t(2) = 4.302653
    early, late = [9.0, 9.0, 11.0, 11.0], [18.0, 20.0, 22.0]
    found = change_of_level(early, late)
    assert found.value == pytest.approx(10.0)
    half = 4.302653 * (4 / 3 / 4 + 4 / 3) ** 0.5
    assert (found.low, found.high) == (pytest.approx(10 - half, abs=1e-5), pytest.approx(10 + half, abs=1e-5))
    assert found.is_above_zero and not found.is_below_zero
    assert change_of_level(late, early).is_below_zero


def test_lopsided_intervals_stay_so():
    """A score of zero is not put at [-0.1, 0.1]; of a difference the limits that push it outwards count."""
    zero = mean_over([Estimate(0.0, 0.0, 0.2)])
    assert (zero.value, zero.low, zero.high) == (0.0, 0.0, pytest.approx(0.2))
    difference = mean_difference([Estimate(0.9, 0.6, 0.95)], [Estimate(0.0, 0.0, 0.4)])
    assert difference.value == pytest.approx(0.9)
    assert (difference.low, difference.high) == (pytest.approx(0.9 - 0.5), pytest.approx(0.95))  # hypot(0.3, 0.4), 0.05
