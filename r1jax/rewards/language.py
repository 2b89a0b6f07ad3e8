"""The languages of a response: is it in the language of the question, and how much of it is Chinese?

Words are Chinese characters and alphabetic words (spec G.11). Tags, code, LaTeX and digits are left out, and so are
single letters, which in reasoning are names of variables. Languages are told apart by their script, no further: Chinese
("zh"), Latin ("en"), any other ("other", words of alphabets and syllabaries).
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

_LEFT_OUT = re.compile(
    r"```.*?(?:```|\Z)|`[^`]*`"  # code
    r"|\$\$[^$]*\$\$|\$[^$\n]*\$|\\\((?:(?!\\\().){0,2000}?\\\)|\\\[(?:(?!\\\[).){0,2000}?\\\]"  # LaTeX; bounded: no text takes long
    r"|\\[A-Za-z]+(?:\{[^{}]*\})*"  # a LaTeX command outside of mathematics
    r"|</?[A-Za-z][^<>]*>",  # tags
    re.DOTALL,
)
_CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]{2,}")
LANGUAGES = ("zh", "en", "other")
_ALPHABETIC = re.compile(r"[^\W\d_]{2,}")


def chinese_share(text: str) -> float | None:
    """Share of Chinese among the words, in [0, 1]; None for a text without words."""
    counts = count_languages(text)
    return counts["zh"] / counts.total() if counts else None


def is_mixed(text: str, *, minimum_share: float = 0.05) -> bool:
    """True where each of the two languages has at least ``minimum_share`` of the words (and at least one word)."""
    share = chinese_share(text)
    return share is not None and 0.0 < share < 1.0 and minimum_share <= share <= 1.0 - minimum_share


def chinese_share_reward(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float | None]:
    """Share of Chinese in each completion, None where it has no words: to be logged (weight 0.0)."""
    return [chinese_share(text) for text in completions]


def count_languages(text: str) -> Counter[str]:
    """Number of words of each of ``LANGUAGES`` that has any."""
    text = _LEFT_OUT.sub(" ", text)
    words = _ALPHABETIC.findall(_CHINESE.sub(" ", text))
    latin = sum(_LATIN.fullmatch(word) is not None for word in words)
    return +Counter(zh=len(_CHINESE.findall(text)), en=latin, other=len(words) - latin)


def language_of(question: str) -> str:
    """The language of most words of a question; "en" where it has none."""
    counts = count_languages(question)
    return max(LANGUAGES, key=lambda language: (counts[language], language == "en"))


def consistency(
    prompts: Sequence[str],
    completions: Sequence[str],
    problem: Sequence[Any] | None = None,
    language: Sequence[str | None] | None = None,
    **columns: Any,
) -> list[float | Exception]:
    """Share of words in the target language among the words of the reasoning, in [0, 1] (R1 v2 Eq. 7, spec B.6.2).

    The reasoning is what stands before ``</think>``; all of the completion where there is no such tag. Reasoning without
    words, only numbers and formulas, gets 1.0 (spec G.11); no reasoning at all gets 0.0.

    Args:
        prompts: [N] prompts, where neither of the next two is given.
        problem: [N] problems; the target is the language of the last message, without the prompt's own words.
        language: [N] targets, "zh", "en" or "other"; None for that of the question.

    Returns:
        [N] scores, or a ValueError in place of one whose target is none of these.
    """
    count = len(completions)
    problems, targets = problem or [None] * count, language or [None] * count
    scores: list[float | Exception] = []
    for prompt, text, asked, target in zip(prompts, completions, problems, targets, strict=True):
        if target is not None and target not in LANGUAGES:
            scores.append(ValueError(f"language {target!r}: must be one of {', '.join(LANGUAGES)}"))
            continue
        question = prompt if asked is None else asked.messages[-1]["content"]
        scores.append(_target_share(text, target or language_of(question)))
    return scores


def _target_share(text: str, target: str) -> float:
    before, closing, _ = text.partition("</think>")
    reasoning = before.replace("<think>", " ") if closing else text
    counts = count_languages(reasoning)
    if counts:
        return counts[target] / counts.total()
    return float(bool(reasoning.strip()))
