import random

import numpy as np
import pytest

from r1jax.evals.suites import codeforces as cf


def test_expected_rank_literal():
    assert cf.expected_rank(1500, [1500]) == pytest.approx(1.5)
    assert cf.expected_rank(1900, [1500]) == pytest.approx(1 + 1 / 11)  # ten times as likely to win
    assert cf.expected_rank(1500, [1900, 1100]) == pytest.approx(1 + 10 / 11 + 1 / 11)


@pytest.mark.parametrize("seed", range(20))
def test_rating_against_brute_force_on_made_contests(seed):
    """Every rating to a hundredth: the one whose expected rank is nearest, the chances summed one by one."""
    rng = random.Random(seed)
    others = [rng.gauss(1500, 350) for _ in range(rng.choice([2, 7, 40]))]
    rank = 1 + rng.uniform(0.05, 0.95) * len(others)

    def distance(rating):
        return abs(1 + sum(1 / (1 + 10 ** ((rating - other) / 400)) for other in others) - rank)

    best = 0.0
    for step in (100.0, 10.0, 1.0, 0.1, 0.01):
        around = [best + step * index for index in range(-11, 60 if step == 100.0 else 12)]
        best = min(around, key=distance)
    assert cf.expected_rating(rank, others) == pytest.approx(min(max(best, cf.LOWEST), cf.HIGHEST), abs=0.01)


def test_ends_of_the_range_and_order():
    others = [1200.0, 1600.0, 2000.0]
    assert cf.expected_rating(1, others) == pytest.approx(cf.HIGHEST) and cf.expected_rating(4, others) < 1e-6
    ratings = [cf.expected_rating(rank, others) for rank in (1.5, 2.0, 2.5, 3.0)]
    assert ratings == sorted(ratings, reverse=True)
    for rank, message in ((0.5, r"rank must lie in 1..4, got 0.5"), (5, "got 5")):
        with pytest.raises(ValueError, match=message):
            cf.expected_rating(rank, others)
    with pytest.raises(ValueError, match="other contestants"):
        cf.expected_rating(1, [])


def test_points_ranks_and_shares():
    assert cf.tries_before([False, False, True, False]) == 2 and cf.tries_before([False]) is None
    assert cf.points_of([0, 2, None], [500, 1000, 1500]) == 500 + 900
    assert cf.points_of([20], [500]) == 150  # never below 30 %
    with pytest.raises(ValueError, match="longer|shorter"):
        cf.points_of([0], [500, 1000])
    assert cf.rank_of(900, [1000, 900, 900, 100]) == 3.0  # second to fourth
    assert cf.share_beaten(900, [1000, 900, 900, 100]) == pytest.approx(0.5)
    assert cf.share_beaten(2000, [1000, 900]) == 1.0 and cf.share_beaten(0, [1000, 900]) == 0.0


def test_rating_over_contests():
    rng = np.random.default_rng(0)
    fields = [rng.normal(1500, 300, 200) for _ in range(10)]
    truth = 1700.0
    exact = [(cf.expected_rank(truth, others), others) for others in fields]
    assert cf.rating_over(exact) == pytest.approx(truth, abs=1e-4)
    assert cf.rating_over(exact[:1]) == pytest.approx(cf.expected_rating(*exact[0]), abs=1e-4)
    # played out: ten contests against two hundred, the rank drawn duel by duel
    drawn = [(1 + float((rng.random(200) < cf.beats(truth, others)).sum()), others) for others in fields]
    assert cf.rating_over(drawn) == pytest.approx(truth, abs=40)
    last = [*exact[:9], (201.0, fields[9])]
    assert 1400 < cf.rating_over(last) < truth
    with pytest.raises(ValueError, match="no contest"):
        cf.rating_over([])
