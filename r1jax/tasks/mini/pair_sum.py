"""The mini world's reasoning task, `pair_sum`: "Which two of 17, 8, 10, 3 make 18".

A lone guess is right once in six; working through the pairs one by one finds the answer always, if each sum is written
right and compared right with the target. So persistence and checking pay.

Train and held-out problems share no set of numbers: the split goes by a hash of the sorted numbers, whatever the
target.
"""

import itertools
import random
import re

from r1jax.tasks.problem import Problem, check_index, split_of, stable_hash

_ANSWER = re.compile(r"\s*(\d{1,4})\s*(?:\+|,|and|&|和|加)\s*(\d{1,4})\s*(?:=\s*\d{1,5}\s*)?\.?\s*")


class PairSum:
    """Find the two numbers of a list whose sum is the target; exactly one pair fits."""

    name = "pair_sum"

    def __init__(self, *, count: int = 4, low: int = 1, high: int = 20, heldout_fraction: float = 0.1):
        """Lists of ``count`` distinct numbers in [low, high]; a share of the sets is held out. ValueError for bad values."""
        if not 3 <= count <= 6:
            raise ValueError(f"pair_sum: count={count} must be in [3, 6]")
        if low < 0 or high - low + 1 < 4 * count:
            raise ValueError(f"pair_sum: [low, high]=[{low}, {high}] needs low >= 0 and at least {4 * count} numbers")
        if not 0.0 < heldout_fraction < 1.0:
            raise ValueError(f"pair_sum: heldout_fraction={heldout_fraction} must be in (0, 1)")
        self.count, self.low, self.high, self.heldout_fraction = count, low, high, heldout_fraction

    def problem(self, index: int, *, split: str) -> Problem:
        """The problem at `index` of `split`; `columns` holds "task", "numbers" (as shown) and "target"."""
        check_index(index, split)
        rng = random.Random(stable_hash("pair_sum", self.count, self.low, self.high, index, split))
        while True:
            numbers = rng.sample(range(self.low, self.high + 1), self.count)
            content = " ".join(map(str, sorted(numbers)))
            if split_of(content, heldout_fraction=self.heldout_fraction, space="pair_sum") != split:
                continue
            pairs = list(itertools.combinations(numbers, 2))
            sums = [first + second for first, second in pairs]
            unique = [number for number, value in enumerate(sums) if sums.count(value) == 1]
            if unique:
                break
        first, second = pairs[rng.choice(unique)]
        target = first + second
        question = f"Which two of {', '.join(map(str, numbers))} make {target}"
        return Problem(
            messages=({"role": "user", "content": question},),
            answer=self.canonical(f"{first} + {second}"),
            columns={"task": self.name, "numbers": numbers, "target": target},
        )

    def grade(self, answer: str | None, problem: Problem) -> float:
        """1.0 for the right pair in either order ("8 + 10", "10 and 8", "8 + 10 = 18"), else 0.0."""
        return float(answer is not None and self.canonical(answer) == problem.answer)

    def canonical(self, answer: str) -> str:
        """ "10 + 8" and "8, 10" both give "8+10"; other text is only trimmed, its white space made single."""
        match = _ANSWER.fullmatch(answer)
        if match is None:
            return " ".join(answer.split())
        return "{}+{}".format(*sorted((int(match[1]), int(match[2]))))
