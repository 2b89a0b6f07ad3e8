"""Codeforces: the rating at which the expected rank in a contest is the observed one, and the share of humans beaten.

R1's solutions to ten Div. 2 contests were judged as a contestant's (R1 v2 Sec. D.1). Our copy of the paper says expected
rating and share of competitors beaten, and has neither a formula nor a rule of penalties: here they are those of the
site. A contestant of rating R loses to one of rating r with chance 1 / (1 + 10^((R - r) / 400)); the expected rank is 1
plus the sum of these chances (Mirzayanov, codeforces.com/blog/entry/20762).

Deviations: (1) time is not known of a model: a try at a problem happens at no minute, so that of equal numbers of
solved problems the penalties of wrong tries decide. (2) Points of a contest with points are not lowered by time.
"""

from collections.abc import Sequence

import numpy as np

LOWEST, HIGHEST = 0.0, 5000.0
"""The range of ratings that is searched."""


def beats(rating: float, others: Sequence[float]) -> np.ndarray:
    """[N] the chances that others of these ratings are ahead of a contestant."""
    return 1 / (1 + 10 ** ((rating - np.asarray(others, np.float64)) / 400))


def expected_rank(rating: float, others: Sequence[float]) -> float:
    """The expected rank, from 1, of a contestant among others of these ratings."""
    return 1 + float(beats(rating, others).sum())


def expected_rating(rank: float, others: Sequence[float]) -> float:
    """The rating at which the expected rank is ``rank``, to 1e-6; the ends of the range where none in it is.

    Args:
        rank: from 1; contestants with an equal result share the mean of their ranks (``rank_of``).
        others: the ratings of the other contestants.

    Raises ValueError for no others, or a rank outside 1 ... N + 1.
    """
    if not len(others):
        raise ValueError("a contest needs other contestants")
    if not 1 <= rank <= len(others) + 1:
        raise ValueError(f"rank must lie in 1..{len(others) + 1}, got {rank}")
    low, high = LOWEST, HIGHEST
    while high - low > 1e-7:
        middle = (low + high) / 2
        if expected_rank(middle, others) > rank:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def points_of(wrong_tries: Sequence[int | None], values: Sequence[float], *, penalty: float = 50.0) -> float:
    """The points of a contestant: of each solved problem its value less the penalty of each wrong try before it.

    Args:
        wrong_tries: of each problem; None where it was not solved, which costs nothing.
        values: of each problem.
        penalty: of a try; at most 70 % of a problem's value is lost, as by the site's rules.

    Raises ValueError for lists of different lengths.
    """
    solved = zip(wrong_tries, values, strict=True)
    return float(sum(max(0.3 * value, value - penalty * tries) for tries, value in solved if tries is not None))


def tries_before(is_right: Sequence[bool]) -> int | None:
    """How many of a model's samples for a problem, taken in order as tries, are wrong before the first right one."""
    return next((index for index, right in enumerate(is_right) if right), None)


def rank_of(points: float, others: Sequence[float]) -> float:
    """The rank of a contestant among the points of others; those with equal points share the mean of their ranks."""
    values = np.asarray(others, np.float64)
    return 1 + float((values > points).sum()) + float((values == points).sum()) / 2


def share_beaten(points: float, others: Sequence[float]) -> float:
    """The share of others with fewer points, and half of those with equal ones, in [0, 1]."""
    if not len(others):
        raise ValueError("a contest needs other contestants")
    return (len(others) + 1 - rank_of(points, others)) / len(others)


def rating_over(contests: Sequence[tuple[float, Sequence[float]]]) -> float:
    """The rating of several contests: that at which the sum of expected ranks is the sum of observed ones.

    Args:
        contests: (rank, ratings of the others) of each.

    One figure of all contests, which a single lost contest cannot drag to the end of the range as it does a mean of
    ratings. Raises ValueError as ``expected_rating``, or for no contest.
    """
    if not contests:
        raise ValueError("no contest")
    ranks, fields = zip(*contests, strict=True)
    for rank, others in contests:
        expected_rating(rank, others)  # which checks them
    together = np.concatenate([np.asarray(others, np.float64) for others in fields])
    return expected_rating(float(sum(ranks)) - len(contests) + 1, together.tolist())
