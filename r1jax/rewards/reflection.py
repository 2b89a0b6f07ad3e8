"""Reflection words in a response, the report's measure of self-checking (R1 v2 Sec. 2.3, C.2; spec E).

The ten English words are the report's, matched whole and in any case. The Chinese ones are ours, found anywhere in the
text (Chinese has no word boundaries) and counted under the English word they stand for.
"""

import collections
import re
from collections.abc import Sequence
from typing import Any

REFLECTION_WORDS: dict[str, tuple[str, ...]] = {
    "wait": ("等一下", "等等"),
    "mistake": ("失误",),
    "however": ("然而", "不过"),
    "but": ("但是", "可是"),
    "retry": ("再试", "重试"),
    "error": ("错误",),
    "verify": ("验证", "验算"),
    "wrong": ("错", "不对"),
    "evaluate": ("评估",),
    "check": ("检查", "核对"),
}

_ENGLISH_OF = {chinese: english for english, forms in REFLECTION_WORDS.items() for chinese in forms}
_ENGLISH = rf"(?<![A-Za-z])(?:{'|'.join(REFLECTION_WORDS)})(?![A-Za-z])"
_CHINESE = "|".join(sorted(_ENGLISH_OF, key=len, reverse=True))
_PATTERN = re.compile(f"{_ENGLISH}|{_CHINESE}", re.IGNORECASE)


def count_reflections(text: str) -> dict[str, int]:
    """Occurrences of each reflection word that is in the text, by English word. No character is counted twice."""
    words = (match.group().lower() for match in _PATTERN.finditer(text))
    return dict(collections.Counter(_ENGLISH_OF.get(word, word) for word in words))


def reflection_reward(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
    """Number of reflection words in each completion: to be logged (weight 0.0); as a reward it would be hacked."""
    return [float(sum(count_reflections(text).values())) for text in completions]
