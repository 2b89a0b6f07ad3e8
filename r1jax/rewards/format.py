"""Format rewards: 1.0 for a response of the asked form, else 0.0 (spec B.6.1; R1 v2 gives no magnitude).

A response cut off at the length limit has not finished: 0.0 (spec G.12). An empty think block is not thinking: 0.0.
"""

from collections.abc import Sequence
from typing import Any

from r1jax.text.response import is_cut_off, parse


def r1_zero(
    prompts: Sequence[str], completions: Sequence[str], stop_reason: Sequence[str] | None = None, **columns: Any
) -> list[float]:
    """R1-Zero: ``<think>...</think> <answer>...</answer>`` and nothing else, each tag once, neither part empty."""
    return _format_scores(completions, stop_reason, style="r1_zero")


def r1(
    prompts: Sequence[str], completions: Sequence[str], stop_reason: Sequence[str] | None = None, **columns: Any
) -> list[float]:
    """R1: reasoning, one ``</think>``, a summary; neither part empty. The prompt may have opened the thought."""
    return _format_scores(completions, stop_reason, style="r1")


def _format_scores(completions: Sequence[str], stop_reason: Sequence[str] | None, *, style: str) -> list[float]:
    is_cut = is_cut_off(stop_reason, len(completions))
    return [
        float(not cut and parse(text, style=style).well_formed) for text, cut in zip(completions, is_cut, strict=True)
    ]
