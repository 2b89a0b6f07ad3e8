"""Statistics of sampled answers: pass@1, unbiased pass@k, cons@k, intervals over problems. numpy alone.

pass@1 = mean over samples, then problems (R1 App. D.1); pass@k as Chen et al. 2021 (Codex) Eq. 1; cons@k = majority
vote over canonical answers (R1 App. D.1).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

_LEVEL = 0.95  # of the intervals


@dataclasses.dataclass(frozen=True)
class ProblemSamples:
    """The n sampled outputs of one problem; all fields have n entries."""

    answers: tuple[str | None, ...]  # canonical: equal answers are equal strings; None = no answer found
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


def bootstrap_interval(per_problem: Sequence[float], *, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean, problems resampled with replacement; fixed by `seed`.

    It speaks of the choice of problems; the noise of sampling answers enters as it shows in the problems' values.
    Raises ValueError for no problems or values that are not finite.
    """
    values = np.asarray(per_problem, np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"need a list of finite values, one a problem, got {per_problem!r}")
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(values.size, size=values.size)].mean() for _ in range(2000)]
    low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def with_interval(name: str, per_problem: Sequence[float], *, seed: int) -> dict[str, float]:
    """The mean over problems as "<name>", and the limits of its interval as "<name>_low" and "<name>_high"."""
    low, high = bootstrap_interval(per_problem, seed=seed)
    return {name: float(np.mean(per_problem)), f"{name}_low": low, f"{name}_high": high}


def summarise(problems: Sequence[ProblemSamples], *, k: int, seed: int = 0) -> dict[str, float]:
    """The metrics of an evaluation, means over problems that all weigh the same.

    Args:
      problems: the samples; each problem has at least k, not all need the same number.
      k: of pass@k and cons@k (R1-Zero's curve: 16).
      seed: of the random subsets and the bootstrap.

    Returns pass@1, cons@k, each with 95 % limits as "<name>_low" and "<name>_high"; pass@k; mean_length (tokens) and
    format (share of well-formed outputs). Raises ValueError for no problems or one with fewer than k samples.
    """
    if not problems:
        raise ValueError("no problems to summarise")
    for index, problem in enumerate(problems):
        if len(problem.answers) < k:
            raise ValueError(f"problem {index} has {len(problem.answers)} samples, fewer than k={k}")
    summary = with_interval("pass@1", [float(np.mean(p.correct)) for p in problems], seed=seed)
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
    within problems, so far closer than those of the two figures.

    Raises ValueError where a problem has fewer than k samples.
    """
    metrics: dict[str, float] = {}
    for k in sizes:
        values = [cons_at_k(p.answers, p.correct, k, seed=seed + i) for i, p in enumerate(problems)]
        metrics |= with_interval(f"cons@{k}", values, seed=seed)
        if with_gains:
            gains = [value - float(np.mean(p.correct)) for value, p in zip(values, problems, strict=True)]
            metrics |= with_interval(f"cons@{k}_gain", gains, seed=seed)
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
