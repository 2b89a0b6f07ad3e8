"""Punishment of repetition, in tokens: degenerate loops are a common failure and a way to game rewards of length."""

from collections.abc import Sequence
from typing import Any


def ngrams(
    prompts: Sequence[str],
    completions: Sequence[str],
    completion_ids: Sequence[Sequence[int]],
    size: int = 20,
    max_penalty: float = -1.0,
    **columns: Any,
) -> list[float]:
    """``max_penalty`` times the share of n-grams that occurred before in the completion, in [max_penalty, 0].

    arXiv 2502.03373 App. C.2 in TRL's form. Short n-grams repeat in any good text; 20 tokens are a repeated sentence.

    Args:
        completion_ids: [N] tokens of each completion; those shorter than ``size`` get 0.
        size: tokens of an n-gram.
        max_penalty: of a completion that only repeats itself.

    Raises:
        ValueError: size < 1 or a positive penalty.
    """
    if size < 1 or max_penalty > 0:
        raise ValueError(f"ngrams: size={size} must be >= 1 and max_penalty={max_penalty} must be <= 0")
    scores = []
    for ids in completion_ids:
        grams = [tuple(ids[start : start + size]) for start in range(len(ids) - size + 1)]
        scores.append(max_penalty * (1.0 - len(set(grams)) / len(grams)) if grams else 0.0)
    return scores
