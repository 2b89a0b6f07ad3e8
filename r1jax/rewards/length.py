"""Rewards of the length of a completion, in tokens (column ``completion_ids``).

Both need the option ``max_tokens``: ``{"function": "r1jax.rewards.length:overlong", "options": {"max_tokens":
32768}}``.
"""

import math
from collections.abc import Sequence
from typing import Any

from r1jax.rewards import math as math_reward


def overlong(
    prompts: Sequence[str],
    completions: Sequence[str],
    completion_ids: Sequence[Sequence[int]],
    max_tokens: int,
    cache_tokens: int | None = None,
    **columns: Any,
) -> list[float]:
    """DAPO Eq. 13, the soft overlong punishment, in [-1, 0]: 0 up to ``max_tokens - cache_tokens``, then down to -1.

    Args:
        max_tokens: L_max, the length at which the punishment is -1.
        cache_tokens: L_cache, the length of the slope; by default a fifth of ``max_tokens``, as in DAPO (4096 of
        20480).

    Raises:
        ValueError: not 0 < cache_tokens <= max_tokens.
    """
    cache = max(1, max_tokens // 5) if cache_tokens is None else cache_tokens
    if not 0 < cache <= max_tokens:
        raise ValueError(f"overlong: cache_tokens={cache} must lie between 1 and max_tokens={max_tokens}")
    return [max(-1.0, min(0.0, (max_tokens - cache - len(ids)) / cache)) for ids in completion_ids]


def cosine(
    prompts: Sequence[str],
    completions: Sequence[str],
    completion_ids: Sequence[Sequence[int]],
    answer: Sequence[Any],
    max_tokens: int,
    wrong: tuple[float, float] = (-1.0, -0.5),
    right: tuple[float, float] = (1.0, 0.5),
    stop_reason: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | Exception]:
    """Math accuracy scaled by length (arXiv 2502.03373 App. C.1): right and short best, wrong and short worst.

    The value goes along half a cosine from the first of a pair (no token) to the second (``max_tokens`` and more).

    Args:
        answer: [N] reference answers (``math.accuracy``).
        max_tokens: the length of the longest completion.
        wrong: values of a wrong answer.
        right: values of a right answer.

    Returns:
        [N] scores, or the exception of ``math.accuracy`` in place of one.

    Raises:
        ValueError: max_tokens < 1.
    """
    if max_tokens < 1:
        raise ValueError(f"cosine: max_tokens={max_tokens} must be >= 1")
    scores: list[float | Exception] = []
    for score, ids in zip(math_reward.accuracy(prompts, completions, answer, stop_reason), completion_ids, strict=True):
        if isinstance(score, Exception):
            scores.append(score)
            continue
        first, last = right if score == 1.0 else wrong
        share = min(len(ids), max_tokens) / max_tokens
        scores.append(last + 0.5 * (first - last) * (1.0 + math.cos(math.pi * share)))
    return scores
