"""The languages of a response: is it in the language of the question, and how much of it is Chinese?

Words are Chinese characters and alphabetic words (spec G.11). Tags, code, LaTeX and digits are left out, and so are
single letters, which in reasoning are names of variables. Only scripts tell languages apart: Chinese
("zh"), Latin ("en"), any other ("other", words of alphabets and syllabaries).
"""

import functools
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
_NAMED = dict.fromkeys(("zh", "cn", "chinese", "mandarin", "中文", "汉语"), "zh") | {"other": "other"}
_NAMED |= dict.fromkeys(("en", "english", "英文", "英语"), "en")
_SENTENCE_END = re.compile(r"(?<=[.!?。！？\n])")
_INSTRUCTION = re.compile(
    r"step by step|\\boxed|(?:put|give|write|output|present|provide|enclose) (?:your|the) (?:final )?answer"
    r"|逐步|一步一步|最终答案",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"[“\"「『《‘][^“”\"「」『』《》‘’\n]{1,200}[”\"」』》’]")
_NO_WORD = re.compile(
    r"https?://\S+|\b\w*[_\d]\w*\b|\b\w+(?:\.\w+)+\b|\b[A-Za-z]+(?=\()"  # addresses, identifiers, calls
    r"|\b(?:a?(?:sin|cos|tan|cot|sec|csc)h?|arc\w+|log|ln|lg|exp|max|min|gcd|lcm|mod|sqrt|lim|det|pi|theta|alpha|beta)\b"
    r"|\b(?:[kcmd]m|[km]g|m[ls]|kwh|hz|cm|km)\b"
    r"|\b[A-Z]{2,}\b|(?<=[^.!?:：。！？\s])\s*\b[A-Z][a-z]+\b",  # abbreviations, names
    re.ASCII,  # a Chinese character ends a word
)
_SMALL_ZH = re.compile("[的是了在有和几吗个与为若则设求证解请问么多少何怎哪已知到从把被每比该这那它他她们等于]")
_SMALL_EN = re.compile(
    r"\b(?:a|an|the|is|are|was|be|of|in|on|to|and|or|if|what|which|how|who|where|when|why|do|does|did|for|with|by|at"
    r"|from|as|it|its|he|she|they|his|her|has|have|had|that|this|there|then|than|many|much|each|into|i|you)\b",
    re.ASCII,
)


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


@functools.lru_cache(maxsize=256)  # it is asked for every completion
def language_of(question: str, *, column: str | None = None) -> str | None:
    """The language that a problem is posed in; None where it has none, since it is only formulas, code and names.

    Instructions on the form of the answer ("put the final answer within \\boxed{}") and quotations do not count, and of
    words in the Latin script neither identifiers, functions and units ("sin", "km") nor capitalised ones inside a
    sentence, which are names. Where Chinese and Latin words remain, the small words of the languages decide ("is",
    "the"; 有, 几), which no name or term brings with it, and then the number of words. What follows the colon of a
    Chinese request ("请翻译: I like the apples") is material.

    Args:
        question: the problem's text, without the wording of a prompt.
        column: a language that the data name ("zh", "Chinese", "en-US"); it wins.

    Raises:
        ValueError: the column is no language that is known here.
    """
    if column is not None:
        named = _NAMED.get(re.split(r"[-_ ]", str(column).strip().casefold())[0])
        if named is None:
            raise ValueError(f"language {column!r}: must be one of {', '.join(LANGUAGES)}")
        return named
    text = "".join(part for part in _SENTENCE_END.split(question) if not _INSTRUCTION.search(part))
    text = _LEFT_OUT.sub(" ", text)
    text = _QUOTED.sub(" ", text) if count_languages(_QUOTED.sub(" ", text)) else text
    text = _asked(text)
    small = Counter(zh=len(_SMALL_ZH.findall(text)), en=len(_SMALL_EN.findall(text.casefold())))
    counts = count_languages(_NO_WORD.sub(" ", text))
    if not counts:
        return "en" if small["en"] else None
    order = (
        (lambda language: (small[language], counts[language])) if counts["zh"] and counts["en"] else counts.__getitem__
    )
    return max(("en", "zh", "other"), key=order)


def _asked(text: str) -> str:
    """The part before the first colon, where it is Chinese and what follows is not."""
    request, colon, material = re.split(r"([:：])", text, maxsplit=1) if re.search("[:：]", text) else (text, "", "")
    counts = count_languages(request)
    is_request = colon and counts.keys() == {"zh"} and counts.total() >= 3 and "zh" not in count_languages(material)
    return request if is_request else text


def consistency(
    prompts: Sequence[str],
    completions: Sequence[str],
    problem: Sequence[Any] | None = None,
    language: Sequence[str | None] | None = None,
    **columns: Any,
) -> list[float | Exception]:
    """Share of words in the target language among the words of the reasoning, in [0, 1] (R1 v2 Eq. 7, spec B.6.2).

    The reasoning is what stands before ``</think>``; all of the completion where there is no such tag. Reasoning
    without words, only numbers and formulas, gets 1.0 (spec G.11); no reasoning at all gets 0.0.

    The target is ``language_of`` the problem's text, which no template or instruction is part of. A problem of formulas
    alone asks for no language: the target is the one that most of the reasoning's words are in, so only mixing costs.

    Args:
        prompts: [N] prompts, read where no problems are given.
        problem: [N] problems.
        language: [N] targets by name; None for that of the problem.

    Returns:
        [N] scores, or a ValueError in place of one whose target is no language that is known.
    """
    count = len(completions)
    problems, targets = problem or [None] * count, language or [None] * count
    scores: list[float | Exception] = []
    for prompt, text, asked, target in zip(prompts, completions, problems, targets, strict=True):
        try:
            scores.append(
                _target_share(
                    text, language_of(prompt if asked is None else asked.question, column=target and str(target))
                )
            )
        except ValueError as error:
            scores.append(error)
    return scores


def _target_share(text: str, target: str | None) -> float:
    before, closing, _ = text.partition("</think>")
    reasoning = before.replace("<think>", " ") if closing else text
    counts = count_languages(reasoning)
    if counts:
        return counts[target or counts.most_common(1)[0][0]] / counts.total()
    return float(bool(reasoning.strip()))
