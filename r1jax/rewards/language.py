"""The languages of a response: how much of it is Chinese, and whether it mixes Chinese with an alphabetic language.

Words are Chinese characters and alphabetic words (spec G.11). Tags, code, LaTeX and digits are left out, and so are
single letters, which in reasoning are names of variables.
"""

import re
from collections.abc import Sequence
from typing import Any

_LEFT_OUT = re.compile(
    r"```.*?(?:```|\Z)|`[^`]*`"  # code
    r"|\$\$[^$]*\$\$|\$[^$\n]*\$|\\\(.{0,2000}?\\\)|\\\[.{0,2000}?\\\]"  # LaTeX; bounded, so that no text takes long
    r"|\\[A-Za-z]+(?:\{[^{}]*\})*"  # a LaTeX command outside of mathematics
    r"|</?[A-Za-z][^<>]*>",  # tags
    re.DOTALL,
)
_CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_ALPHABETIC = re.compile(r"[^\W\d_]{2,}")


def count_words(text: str) -> tuple[int, int]:
    """Numbers of Chinese characters and of alphabetic words."""
    text = _LEFT_OUT.sub(" ", text)
    return len(_CHINESE.findall(text)), len(_ALPHABETIC.findall(_CHINESE.sub(" ", text)))


def chinese_share(text: str) -> float | None:
    """Share of Chinese among the words, in [0, 1]; None for a text without words."""
    chinese, alphabetic = count_words(text)
    return chinese / (chinese + alphabetic) if chinese + alphabetic else None


def is_mixed(text: str, *, minimum_share: float = 0.05) -> bool:
    """True where each of the two languages has at least ``minimum_share`` of the words (and at least one word)."""
    share = chinese_share(text)
    return share is not None and 0.0 < share < 1.0 and minimum_share <= share <= 1.0 - minimum_share


def chinese_share_reward(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float | None]:
    """Share of Chinese in each completion, None where it has no words: to be logged (weight 0.0)."""
    return [chinese_share(text) for text in completions]
