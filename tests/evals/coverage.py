"""How often the intervals of ``r1jax.evals.statistics`` hold what they should, by simulation.

A made experiment draws a population of problems: its mean pass rate, uniform in [0.05, 0.95] or given, and how much
problems differ, a beta distribution whose two parameters add up to between 0.3 (nearly all solved always or never) and
10 (nearly alike). Its problems and samples are drawn from it.

    python -m tests.evals.coverage [EXPERIMENTS]
"""

import sys

import numpy as np

from r1jax.evals.statistics import paired_difference, sampling_interval, share_interval


def coverage_of_shares(
    *, num_problems: int, num_samples: int, experiments: int, seed: int, mean: float | None = None
) -> float:
    """The share of experiments whose ``share_interval`` holds the population's mean."""
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(experiments):
        truth, spread = _population(rng, mean)
        rates = rng.beta(truth * spread, (1 - truth) * spread, num_problems)
        low, high = share_interval(rng.binomial(num_samples, rates) / num_samples)
        held += low <= truth <= high
    return held / experiments


def coverage_of_samples(*, num_problems: int, num_samples: int, experiments: int, seed: int) -> float:
    """The share of experiments whose ``sampling_interval`` holds the mean of the very problems that were asked."""
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(experiments):
        truth, spread = _population(rng, None)
        rates = rng.beta(truth * spread, (1 - truth) * spread, num_problems)
        low, high = sampling_interval([num_samples] * num_problems, rng.binomial(num_samples, rates).tolist())
        held += low <= rates.mean() <= high
    return held / experiments


def coverage_of_differences(*, num_problems: int, num_samples: int, experiments: int, seed: int) -> float:
    """The share of experiments whose ``paired_difference`` holds the difference of two models' means.

    A random share of the problems is as hard for one model as for the other; the others it draws from a population
    whose mean differs by about 0.15.
    """
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(experiments):
        mean, spread = _population(rng, None)
        other, shared = float(np.clip(mean + rng.normal(0, 0.15), 0.03, 0.97)), rng.random()
        rates = rng.beta(mean * spread, (1 - mean) * spread, num_problems)
        fresh = rng.beta(other * spread, (1 - other) * spread, num_problems)
        others = np.where(rng.random(num_problems) < shared, rates, fresh)
        scores = [rng.binomial(num_samples, chances) / num_samples for chances in (rates, others)]
        found = paired_difference(*scores, samples=num_samples)
        held += found.low <= (1 - shared) * (mean - other) <= found.high
    return held / experiments


def _population(rng: np.random.Generator, mean: float | None) -> tuple[float, float]:
    mean = rng.uniform(0.05, 0.95) if mean is None else mean
    return mean, float(np.exp(rng.uniform(np.log(0.3), np.log(10))))


def main(experiments: int) -> None:
    """Prints the table."""
    print("problems samples   any  .05  .10  .30  .50  of the mean pass rate; same problems; differences")
    for num_problems in (10, 30, 100):
        for num_samples in (1, 4, 16):
            sizes = {"num_problems": num_problems, "num_samples": num_samples}
            sizes |= {"experiments": experiments, "seed": 2}
            cells = [coverage_of_shares(**sizes, mean=mean) for mean in (None, 0.05, 0.1, 0.3, 0.5)]
            cells.append(coverage_of_samples(**sizes) if num_samples > 1 else float("nan"))
            cells.append(coverage_of_differences(**sizes))
            print(f"{num_problems:8} {num_samples:7}  ", *(f"{100 * cell:5.1f}" for cell in cells), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
