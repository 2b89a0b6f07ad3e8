"""The mini corpus: worked `pair_sum` problems by authors of every habit, from which a base model is pretrained.

A completion is what follows the prompt "User: Which two of 17, 8, 10, 3 make 18. Assistant:", for instance

     <think> one 17 + 8 = 25 vs 18 big retry two 17 + 10 = 28 check 17 + 10 = 27 vs 18 big wait three 17 + 3 = 20 vs 18
     big
    wrong four 8 + 10 = 18 vs 18 yes </think> <answer> 8 + 10 </answer>

Every attempt writes a pair, its sum and the target next to it, so the comparison is between neighbours, and says how it
came
out: "big" and "small" teach the comparison sooner than a mere "no" would. Attempts take the pairs in the order of the
list. After a miss an author goes on (a word that reconsiders: retry, wait, wrong) or gives up ("whatever") and answers
the pair tried last. A *slip* is a wrong sum; who *notices* it writes "check" and the right one; else a hit may be
missed, or a miss called a hit. `AUTHORS` has the authors and their rates, `MIXTURE` their shares of a base model's
corpus. A base learns from `careful` alone first (`warmup_documents`): copying, adding and comparing are learned several
times sooner from traces that are long and mostly determined; the mixture then teaches bad habits.

Language: a completion is English (0.5), Chinese (0.3) or mixed word by word (0.2). Half of the completions count their
attempts with number words (one, two, ... / 一, 二, ...). All problems are of the train split: nothing here is held out.
"""

import dataclasses
import itertools
import random
from collections.abc import Mapping
from typing import Any

from r1jax.tasks.mini.pair_sum import PairSum
from r1jax.tasks.problem import Problem, stable_hash

BIG = {"en": ("big",), "zh": ("大",)}
SMALL = {"en": ("small",), "zh": ("小",)}
GO_ON = {"en": ("retry", "wait", "wrong"), "zh": ("再试", "等等", "错")}
GIVE_UP = {"en": ("whatever",), "zh": ("算了",)}
HIT = {"en": ("yes",), "zh": ("对",)}
NOTICE = {"en": ("check",), "zh": ("检查",)}
VERIFY = {"en": ("verify",), "zh": ("验证",)}
COUNT = {
    "en": ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    "zh": ("一", "二", "三", "四", "五", "六", "七", "八", "九", "十"),
}
_LANGUAGE_SHARES = {"en": 0.5, "zh": 0.3, "mixed": 0.2}


@dataclasses.dataclass(frozen=True)
class Author:
    """How an author works; probabilities are per event."""

    tags: bool = True  # writes <think> and <answer>
    thinks: float = 1.0  # works a pair out at all; else answers a random pair
    give_up: float = 0.0  # after a miss
    slip: float = 0.1  # a wrong sum
    notice: float = 0.0  # a slip, when it happens
    verify: float = 0.0  # works a hit out once more


AUTHORS = {
    "plain": Author(tags=False, thinks=0.5, give_up=1.0),  # two numbers out of the blue, or one attempt and its pair
    "direct": Author(thinks=0.0),  # `<answer>` with two random numbers
    "once": Author(give_up=1.0, notice=0.5),  # one attempt; a miss is answered all the same
    "few": Author(give_up=0.5, notice=1.0, verify=0.1),
    "careful": Author(notice=1.0, verify=0.25),  # goes on until a pair hits, or all have been tried
}
MIXTURE = {"plain": 0.2, "direct": 0.17, "once": 0.33, "few": 0.22, "careful": 0.08}


class _Writer:
    """Writes one completion: the words in the author's language, joined by spaces."""

    def __init__(self, rng: random.Random, author: Author, problem: Problem):
        self.rng, self.author = rng, author
        self.numbers, self.target = problem.columns["numbers"], problem.columns["target"]
        self.language = rng.choices(list(_LANGUAGE_SHARES), weights=list(_LANGUAGE_SHARES.values()))[0]
        self.counts = rng.random() < 0.5
        self.parts: list[str] = []

    def write(self, words: Mapping[str, tuple[str, ...]], number: int | None = None) -> None:
        language = self.rng.choice(("en", "zh")) if self.language == "mixed" else self.language
        forms = words[language]
        self.parts.append(self.rng.choice(forms) if number is None else forms[number % len(forms)])

    def step(self, pair: tuple[int, int]) -> int:
        """Writes a pair, its sum (perhaps with a slip, perhaps noticed) and the target; by how much the sum is over it."""
        first, second = pair
        total = first + second
        if self.rng.random() < self.author.slip:
            total = self.rng.choice([total + off for off in (-10, -2, -1, 1, 2, 10) if total + off > 0])
            if self.rng.random() < self.author.notice:
                self.parts.append(f"{first} + {second} = {total}")
                self.write(NOTICE)
                total = first + second
        excess = total - self.target
        self.parts.append(f"{first} + {second} = {total} vs {self.target}")
        self.write(HIT if excess == 0 else BIG if excess > 0 else SMALL)
        return excess

    def think(self) -> tuple[int, int]:
        """Writes the attempts; the pair to answer."""
        pairs = list(itertools.combinations(self.numbers, 2))
        pair = pairs[0]
        for attempt, pair in enumerate(pairs):
            if self.counts:
                self.write(COUNT, attempt)
            excess = self.step(pair)
            if excess == 0 and self.rng.random() < self.author.verify:
                self.write(VERIFY)
                excess = self.step(pair)
            if excess == 0:
                return pair
            if attempt == len(pairs) - 1 or self.rng.random() < self.author.give_up:
                break
            self.write(GO_ON)
        self.write(GIVE_UP)
        return pair


def corpus_text(
    index: int,
    *,
    seed: int,
    mixture: Mapping[str, float] | None = None,
    warmup_documents: int = 0,
    config: Mapping[str, Any] | None = None,
) -> tuple[str, str]:
    """The document at `index` (>= 0): infinite, deterministic, in any order. Another seed gives another corpus.

    Args:
        mixture: author -> weight (default `MIXTURE`); weights need not add up to 1. ValueError for an unknown author.
        warmup_documents: documents before this index are all by `careful`.
        config: arguments of the `PairSum` that gives the problems.

    Returns:
        The question as the user's message holds it, and what the assistant writes, which begins with a space.
    """
    mixture = MIXTURE if mixture is None else mixture
    unknown = sorted(set(mixture) - set(AUTHORS))
    if unknown:
        raise ValueError(f"mixture: no author {', '.join(unknown)}; known are {', '.join(AUTHORS)}")
    rng = random.Random(stable_hash("mini_corpus", seed, index))
    problem = PairSum(**(config or {})).problem(rng.getrandbits(48), split="train")
    drawn = rng.choices(list(mixture), weights=list(mixture.values()))[0]
    author = AUTHORS["careful" if index < warmup_documents else drawn]
    writer = _Writer(rng, author, problem)
    thinks = rng.random() < author.thinks
    first, second = writer.think() if thinks else rng.sample(problem.columns["numbers"], 2)
    answer, body = f"{first} + {second}", " ".join(writer.parts)
    thought, ending = (
        (f"<think> {body} </think> ", f"<answer> {answer} </answer>") if author.tags else (f"{body} so ", answer)
    )
    return problem.question, f" {thought if thinks else ''}{ending}"
