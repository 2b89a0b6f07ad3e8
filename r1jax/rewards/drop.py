"""DROP: exact match and F1 of the words of an answer, as the data set's evaluation script scores them (Dua et al. 2019).

An answer is a list of spans. The rules of the script:

- A span is split at spaces and hyphens. Of each part capitals, punctuation and the articles a, an, the are dropped; a
  part that is a number is that number instead ("7" is "7.0", "1,000" is "1000": the comma is punctuation). The parts
  are a bag without repetition.
- Where the reference has numbers, a span without one of them scores 0.
- The spans of both answers are paired so that the sum of F1 is highest; spans without a partner score 0. The answer's
  F1 is the mean over all, rounded to two digits; exact match asks for as many spans with the same texts.
- Several references: the best of each figure.
"""

import re
import string
from collections.abc import Sequence

import numpy as np

Spans = Sequence[str]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def drop_scores(answer: Spans, references: Sequence[Spans]) -> tuple[float, float]:
    """(exact match, F1) in [0, 1] of the spans of an answer against the best reference.

    References whose first span is blank do not count. Raises ValueError where none is left.
    """
    usable = [spans for spans in references if spans and spans[0].strip()]
    if not usable:
        raise ValueError("DROP: no reference answer with a text")
    scored = [_scores(answer, reference) for reference in usable]
    return max(exact for exact, _ in scored), max(f1 for _, f1 in scored)


def _scores(answer: Spans, reference: Spans) -> tuple[float, float]:
    from scipy.optimize import linear_sum_assignment  # slow to import, and few need it

    given, gold = [normalised(span) for span in answer], [normalised(span) for span in reference]
    exact = float(len(given) == len(gold) and set(given) == set(gold))
    bags = [[set(text.split()) for text in texts] for texts in (given, gold)]
    if not bags[0]:
        return exact, 0.0
    f1 = np.array([[_f1(bag, wanted) for bag in bags[0]] for wanted in bags[1]])
    total = f1[linear_sum_assignment(-f1)].sum()
    return exact, round(float(total) / max(f1.shape), 2)


def normalised(text: str) -> str:
    """A span in the form that is compared."""
    parts = (" ".join(_ARTICLE.sub(" ", _number(part.lower())).split()) for part in re.split("[ -]", text))
    return " ".join(part for part in parts if part)


def _number(part: str) -> str:
    """The part without punctuation, or in the form of a number where it is one before or after that."""
    plain = part if _is_number(part) else part.translate(_PUNCTUATION)
    return str(float(plain)) if _is_number(plain) else plain


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _f1(bag: set[str], gold: set[str]) -> float:
    """The F1 of two bags of words; 0 where the gold one has numbers and none of them is in the other."""
    numbers = set(filter(_is_number, gold))
    if numbers and not numbers & bag:
        return 0.0
    common = len(bag & gold)
    precision = common / len(bag) if bag else 1.0
    recall = common / len(gold) if gold else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
