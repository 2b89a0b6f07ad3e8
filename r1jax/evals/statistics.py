"""Statistics of sampled answers: pass@1, pass@k, G-Pass@k, cons@k; intervals; two models on the same problems.

pass@1 = mean over samples, then problems (R1 App. D.1); pass@k as Chen et al. 2021 (Codex) Eq. 1; G-Pass@k as Liu et
al. 2024 (arXiv 2412.13147) Eq. 3 to 5; cons@k = majority vote over equivalent answers (R1 App. D.1).

All intervals are of 95 %. Problems are the clusters: the samples of one problem never count as independent problems.
``python -m tests.evals.coverage`` simulates how often the intervals hold what they should. numpy and scipy alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri, stdtrit

from r1jax.evals.estimates import Estimate

_UPPER = 0.975  # the quantile at the upper end of a 95 % interval
_PRIOR = 0.1  # problems that are added to a variance of differences
_MAX_EXACT_FLIPS = 2**12
_RANDOM_FLIPS = 9999


@dataclasses.dataclass(frozen=True)
class ProblemSamples:
    """The n sampled outputs of one problem; all fields have n entries."""

    answers: tuple[str | None, ...]  # equivalent answers are equal strings (``evals.votes``); None = no answer found
    correct: tuple[bool, ...]  # by the task metric, not by the reward
    num_tokens: tuple[int, ...]  # response length, end token included
    well_formed: tuple[bool, ...]  # the output follows the format

    def __post_init__(self) -> None:
        sizes = {field.name: len(getattr(self, field.name)) for field in dataclasses.fields(self)}
        if len(set(sizes.values())) != 1 or not self.answers:
            raise ValueError(f"the fields of ProblemSamples need one common length above 0, got {sizes}")


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that k of the samples, drawn without replacement, hold a correct one: 1 - C(n-c, k) / C(n, k).

    Unbiased for the chance that k fresh samples hold one (Chen et al. 2021 Eq. 1). Exact integers, one rounding.
    Raises ValueError unless 0 <= num_correct <= num_samples and 1 <= k <= num_samples.
    """
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"num_correct must lie in 0..{num_samples}, got {num_correct}")
    _check_k(k, num_samples)
    all_subsets = math.comb(num_samples, k)
    return (all_subsets - math.comb(num_samples - num_correct, k)) / all_subsets


def g_pass_at_k(num_samples: int, num_correct: int, k: int, tau: float) -> float:
    """G-Pass@k_tau: chance that of k samples, drawn without replacement, at least ceil(tau k) are right.

    The upper tail of the hypergeometric distribution (arXiv 2412.13147 Eq. 4). At least one must be right, so that
    tau = 0 gives pass@k; tau = 1 asks for k right ones. Exact integers, one rounding.

    Raises ValueError as ``pass_at_k``, or for tau outside [0, 1].
    """
    if not 0 <= tau <= 1:
        raise ValueError(f"tau must lie in [0, 1], got {tau}")
    return _tail(num_samples, num_correct, k, max(math.ceil(round(tau * k, 9)), 1))  # 0.28 * 25 is above 7 in binary


def mg_pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """mG-Pass@k: 2/k times the sum of G-Pass@k_(i/k) over i = ceil(k/2) + 1 ... k (arXiv 2412.13147 Eq. 5).

    For an odd k the sum has (k - 1)/2 terms, so that a model that is always right has 1 - 1/k, as published. Raises
    ValueError as ``pass_at_k``, or for k = 1, of which the sum is empty.
    """
    if k == 1:
        raise ValueError("k must be at least 2: mG-Pass@1 is an empty sum")
    needed = range(math.ceil(k / 2) + 1, k + 1)
    return 2 / k * sum(_tail(num_samples, num_correct, k, least) for least in needed)


def _tail(num_samples: int, num_correct: int, k: int, least: int) -> float:
    """Chance of at least ``least`` right ones among k that are drawn."""
    pass_at_k(num_samples, num_correct, k)  # which checks the counts
    ways = (math.comb(num_correct, j) * math.comb(num_samples - num_correct, k - j) for j in range(least, k + 1))
    return sum(ways) / math.comb(num_samples, k)


def cons_at_k(
    answers: Sequence[str | None], correct: Sequence[bool], k: int, *, seed: int = 0, max_subsets: int = 1000
) -> float:
    """Expected correctness of a majority vote among k of the n samples, drawn without replacement.

    The rule of the vote: the most frequent answer wins; a tie is broken by a uniform choice among the tied answers,
    of which the expected value is returned; None (no answer) never wins unless all k are None. Where samples with
    equal answers were judged differently, the answer is worth the mean of its judgements.

    Exact when there are at most `max_subsets` subsets of k (so always when n = k); otherwise the mean over
    `max_subsets` random ones, fixed by `seed`.

    Raises ValueError for lengths that differ or k outside 1..n.
    """
    num_samples = len(answers)
    if len(correct) != num_samples:
        raise ValueError(f"got {num_samples} answers but {len(correct)} judgements")
    _check_k(k, num_samples)
    classes = {answer: index for index, answer in enumerate(dict.fromkeys([None, *answers]))}  # None is class 0
    class_of_sample = np.array([classes[answer] for answer in answers])
    member = np.eye(len(classes))[class_of_sample]  # [n, classes]
    worth = member.T @ np.asarray(correct, np.float64) / np.maximum(member.sum(0), 1)

    votes = member[_subsets(num_samples, k, seed=seed, max_subsets=max_subsets)].sum(1)  # [subsets, classes]
    votes[:, 0] = np.where(votes[:, 0] == k, k, 0)
    winners = votes == votes.max(1, keepdims=True)
    return float(np.mean(winners @ worth / winners.sum(1)))


def share_interval(per_problem: Sequence[float]) -> tuple[float, float]:
    """The interval of the mean of shares in [0, 1], one a problem, over the choice of problems.

    Wilson's score interval with the effective number of problems n p (1 - p) / s^2, where s^2 is the variance of the
    shares. With one sample a problem this is Wilson's interval; the closer the shares of the problems are to each
    other, the more is a problem worth. Half a problem's worth of binary variance keeps a few equal shares from looking
    certain, and the quantile goes from the normal one to Student's t as the variance becomes one that is estimated.
    Scores that are all zero, or all one, have the Wilson interval of as many single answers.

    The noise of sampling answers enters as it shows in the shares. Raises ValueError for no problems or a share outside
    [0, 1].
    """
    shares = _finite(per_problem)
    if shares.min() < -1e-9 or shares.max() > 1 + 1e-9:
        raise ValueError(f"shares must lie in [0, 1], got {float(shares.min())} to {float(shares.max())}")
    count, mean = shares.size, float(np.clip(shares.mean(), 0, 1))
    binary = mean * (1 - mean)
    ratio = float(shares.var()) / binary if binary > 0 else 1.0
    ratio = min((count * ratio + 0.5) / (count + 0.5), 1.0)
    normal, student = float(ndtri(_UPPER)), _t(count - 1) * math.sqrt(count / max(count - 1, 1))
    quantile = normal if math.isclose(ratio, 1) else normal + (student - normal) * (1 - ratio)
    return _wilson(mean, count / ratio, quantile) if math.isfinite(quantile) else (0.0, 1.0)


def sampling_interval(num_samples: Sequence[int], num_correct: Sequence[int]) -> tuple[float, float]:
    """The interval of pass@1 over new samples of the same problems: what another run of the evaluation would give.

    Args:
        num_samples, num_correct: one a problem.

    It is narrower than the interval over problems, and says nothing of other problems. Where no problem has both right
    and wrong samples it is Wilson's interval of all samples together, which is never too narrow.

    Raises ValueError for no problems, counts that cannot be, or a problem with one sample.
    """
    if not num_samples or len(num_samples) != len(num_correct):
        raise ValueError(f"need as many counts of samples as of right ones, got {len(num_samples)}, {len(num_correct)}")
    rates = [pass_at_k(n, c, 1) for n, c in zip(num_samples, num_correct, strict=True)]
    if min(num_samples) < 2:
        raise ValueError("one sample of a problem does not show how much samples of it differ; two are needed")
    mean, variance = float(np.mean(rates)), 0.0
    for rate, count in zip(rates, num_samples, strict=True):
        variance += rate * (1 - rate) / (count - 1) / len(rates) ** 2
    together = len(rates) ** 2 / sum(1 / count for count in num_samples)
    effective = max(mean * (1 - mean) / variance, together) if variance > 0 else together
    return _wilson(mean, effective, float(ndtri(_UPPER)))


def mean_interval(per_problem: Sequence[float]) -> tuple[float, float] | None:
    """The interval of the mean of any values, one a problem: Student's t; of shares only use ``share_interval``.

    None for one problem, which does not show how much problems differ. Raises ValueError for none or values that are
    not finite.
    """
    values = _finite(per_problem)
    if values.size == 1:
        return None
    mean, half = float(values.mean()), _t(values.size - 1) * float(values.std(ddof=1)) / math.sqrt(values.size)
    return mean - half, mean + half


def paired_difference(first: Sequence[float], second: Sequence[float], *, samples: int = 1) -> Estimate:
    """The mean of one model's scores less that of another, both in [0, 1], on the same problems in the same order.

    The interval is Student's t over the problems' differences, to which a tenth of a problem with a difference of
    1/sqrt(samples) is added (to the variance only): without it, two models that never differ on ten problems would be
    equal for certain.

    Args:
        samples: of each problem, which the scores are means of.

    Raises ValueError for lists of different lengths, or scores outside [0, 1].
    """
    differences = _differences(first, second)
    count, value = differences.size, float(differences.mean())
    variance = (float(np.square(differences - value).sum()) + _PRIOR / samples) / (count - 1 + _PRIOR)
    half = _t(count - 1) * math.sqrt(variance / count)
    return Estimate(value, max(value - half, -1.0), min(value + half, 1.0))


def paired_test(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> float:
    """The two-sided p-value of the sign-flip test: how often the difference would be as large if, problem by problem,
    which model had which score were drawn at random.

    With one sample a problem it is McNemar's exact test. All flips up to 2^12 of them, else 9,999 random ones that
    ``seed`` fixes. Raises ValueError as ``paired_difference``.
    """
    differences = _differences(first, second)
    sizes = np.abs(differences[differences != 0])
    if not sizes.size:
        return 1.0
    is_exact = 2**sizes.size <= _MAX_EXACT_FLIPS
    if is_exact:
        signs = np.array(list(itertools.product([-1, 1], repeat=sizes.size)))
    else:
        signs = np.random.default_rng(seed).choice([-1, 1], size=(_RANDOM_FLIPS, sizes.size))
    is_as_large = np.abs(signs @ sizes) >= abs(float(differences.sum())) - 1e-9
    return float(is_as_large.mean()) if is_exact else float((is_as_large.sum() + 1) / (_RANDOM_FLIPS + 1))


def _differences(first: Sequence[float], second: Sequence[float]) -> np.ndarray:
    one, other = _finite(first), _finite(second)
    if one.size != other.size:
        raise ValueError(f"the models have {one.size} and {other.size} scores: they must be of the same problems")
    if min(one.min(), other.min()) < 0 or max(one.max(), other.max()) > 1:
        raise ValueError("scores must lie in [0, 1]")
    return one - other


def with_interval(name: str, per_problem: Sequence[float]) -> dict[str, float]:
    """The mean over problems as "<name>", and the limits of its interval as "<name>_low" and "<name>_high".

    Values that all lie in [0, 1] are shares (``share_interval``); of others see ``mean_interval``, and there are no
    limits where that gives none.
    """
    values = _finite(per_problem)
    is_share = values.min() >= 0 and values.max() <= 1
    limits = share_interval(per_problem) if is_share else mean_interval(per_problem)
    found = {name: float(values.mean())}
    return found if limits is None else found | {f"{name}_low": limits[0], f"{name}_high": limits[1]}


def summarise(problems: Sequence[ProblemSamples], *, k: int, seed: int = 0) -> dict[str, float]:
    """The metrics of an evaluation, means over problems that all weigh the same.

    Args:
      problems: the samples; each problem has at least k, not all need the same number.
      k: of pass@k and cons@k (R1-Zero's curve: 16).
      seed: of the random subsets.

    Returns pass@1, cons@k, each with 95 % limits as "<name>_low" and "<name>_high"; pass@k; mean_length (tokens) and
    format (share of well-formed outputs). Raises ValueError for no problems or one with fewer than k samples.
    """
    if not problems:
        raise ValueError("no problems to summarise")
    for index, problem in enumerate(problems):
        if len(problem.answers) < k:
            raise ValueError(f"problem {index} has {len(problem.answers)} samples, fewer than k={k}")
    summary = with_interval("pass@1", [float(np.mean(p.correct)) for p in problems])
    return (
        summary
        | vote_metrics(problems, [k], seed=seed)
        | {
            f"pass@{k}": float(np.mean([pass_at_k(len(p.correct), sum(map(bool, p.correct)), k) for p in problems])),
            "mean_length": float(np.mean([np.mean(p.num_tokens) for p in problems])),
            "format": float(np.mean([np.mean(p.well_formed) for p in problems])),
        }
    )


def vote_metrics(
    problems: Sequence[ProblemSamples], sizes: Sequence[int], *, seed: int = 0, with_gains: bool = False
) -> dict[str, float]:
    """cons@k for every k of ``sizes``, a mean over problems, each with 95 % limits as "cons@k_low" and "cons@k_high".

    With gains also what a majority vote adds, cons@k less pass@1, as "cons@k_gain". Its limits are of the difference
    within problems (``paired_difference``), so closer than those of the two figures; one vote adds exactly nothing.

    Raises ValueError where a problem has fewer than k samples.
    """
    metrics: dict[str, float] = {}
    for k in sizes:
        values = [cons_at_k(p.answers, p.correct, k, seed=seed + i) for i, p in enumerate(problems)]
        metrics |= with_interval(f"cons@{k}", values)
        if with_gains:
            means = [float(np.mean(p.correct)) for p in problems]
            gain = paired_difference(values, means) if k > 1 else Estimate(0.0, 0.0, 0.0)
            ends = {"": gain.value, "_low": gain.low, "_high": gain.high}
            metrics |= {f"cons@{k}_gain{end}": float(limit) for end, limit in ends.items() if limit is not None}
    return metrics


def _subsets(num_samples: int, k: int, *, seed: int, max_subsets: int) -> np.ndarray:
    """Index sets [subsets, k]: all of them if there are at most `max_subsets`, else that many random ones."""
    if math.comb(num_samples, k) <= max_subsets:
        return np.array(list(itertools.combinations(range(num_samples), k)))
    rng = np.random.default_rng(seed)
    return np.argsort(rng.random((max_subsets, num_samples)), axis=1)[:, :k]


def _check_k(k: int, num_samples: int) -> None:
    """Raises ValueError unless k samples can be drawn."""
    if not 1 <= k <= num_samples:
        raise ValueError(f"k must lie in 1..{num_samples} (the number of samples), got {k}")


def _finite(values: Sequence[float]) -> np.ndarray:
    """The values as an array; ValueError for none, or one that is not finite."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"need a list of finite values, one a problem, got {values!r:.80}")
    return array


def _t(degrees: int) -> float:
    """The quantile of Student's t at the upper end; infinite without degrees of freedom."""
    return float(stdtrit(degrees, _UPPER)) if degrees > 0 else math.inf


def _wilson(mean: float, count: float, quantile: float) -> tuple[float, float]:
    """Wilson's score interval of a share."""
    square = quantile**2 / count
    middle = (mean + square / 2) / (1 + square)
    half = math.sqrt(square * (mean * (1 - mean) + square / 4)) / (1 + square)
    return (0.0 if mean == 0 else max(middle - half, 0.0)), (1.0 if mean == 1 else min(middle + half, 1.0))
