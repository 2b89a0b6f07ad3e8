"""IF-Eval: does a response follow instructions that can be checked without a judge (Zhou et al. 2023; spec D.2).

The rules are those of the official checkers, for all of its 25 instructions, strict and loose. Deviations: keywords are
taken literally, not as regular expressions; the language detector, which draws at random, has a fixed seed, so that
equal answers have equal scores; its capital words are split by a shorter rule than NLTK's, equal but for rare marks
inside of words.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1jax.text.response import is_cut_off, parse, summary_of

Arguments = Mapping[str, Any]

_MARKS = re.compile(r"""[\s"“”‘’„`«»()\[\]{}<>;@#$%&?!|*]|--|\.\.\.|[:,](?!\d)|''|^'|(?<=\s)'|'(?=\s|$)""")
_CLITIC = re.compile(r"(?<=[^'])(?=N'T$|'(?:S|M|D|LL|RE|VE)$)|(?<=^CAN)(?=NOT$)|(?<=^G[OI][NMT])(?=(?:NA|ME|TA)$)")
_FIXED_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def follows(
    prompts: Sequence[str],
    completions: Sequence[str],
    instruction_id_list: Sequence[Sequence[str] | None],
    kwargs: Sequence[Sequence[Arguments] | None],
    stop_reason: Sequence[str] | None = None,
    loose: bool = False,
    **columns: Any,
) -> list[float | Exception | None]:
    """1.0 where the answer follows all of its instructions, else 0.0; None where a problem has none.

    The answer is what follows the reasoning (``response.summary_of``): the inside of its ``<answer>``, or all of it. An
    instruction without a checker gives an exception in place of a score.
    """
    is_cut = is_cut_off(stop_reason, len(completions))
    scores: list[float | Exception | None] = []
    rows = zip(prompts, completions, instruction_id_list, kwargs, is_cut, strict=True)
    for prompt, text, names, arguments, cut in rows:
        if names is None or arguments is None:
            scores.append(None)
            continue
        try:
            scores.append(float(not cut and follows_all(_answer(text, prompt), names, arguments, loose=loose)))
        except ValueError as error:
            scores.append(error)
    return scores


def follows_all(answer: str, names: Sequence[str], arguments: Sequence[Arguments], *, loose: bool = False) -> bool:
    """True if an answer is not blank and follows every instruction (prompt-level accuracy).

    Args:
        loose: an instruction counts as followed where the answer does, or without its first line, its last or both, or
            any of these without asterisks.

    Raises:
        ValueError: an instruction without a checker, or without an argument that its checker needs.
    """
    for name in names:
        if name not in CHECKERS:
            raise ValueError(f"instruction {name!r} has no checker; there are {', '.join(sorted(CHECKERS))}")
    lines = answer.split("\n")
    parts = [answer, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]) if loose)]
    variants = [
        text for part in parts for text in ((part, part.replace("*", "")) if loose else (part,)) if text.strip()
    ]
    try:
        return all(
            any(CHECKERS[name](text, given) for text in variants) for name, given in zip(names, arguments, strict=True)
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"instructions {', '.join(names)}: bad arguments {list(arguments)}: {error!r}") from error


def _answer(text: str, prompt: str) -> str:
    """What is to follow the instructions; empty where the thought has no end."""
    summary = summary_of(text, prompt=prompt) or ""
    inside = parse(summary).answer
    return summary if inside is None else inside


def _compared(count: int, a: Arguments, bound: str, relation: str = "relation") -> bool:
    if a[relation] not in ("less than", "at least"):
        raise KeyError(f"relation {a[relation]!r}")
    return count < a[bound] if a[relation] == "less than" else count >= a[bound]


def _occurrences(text: str, word: str) -> int:
    return len(re.findall(re.escape(word), text, re.IGNORECASE))


def _is_language(text: str, language: str) -> bool:
    """Whether a text is in a language (ISO 639-1); True for a text that the detector finds no letters in."""
    import langdetect  # it reads profiles of 55 languages

    langdetect.DetectorFactory.seed = 0
    try:
        return langdetect.detect(text) == language
    except langdetect.LangDetectException:
        return True


def _num_sentences(text: str) -> int:
    import punkt

    return len(punkt.sent_tokenize(text))


def _num_capital_words(text: str) -> int:
    """Words of capitals; those with a hyphen are one, DON'T is two."""
    return sum(part.isupper() for word in _MARKS.split(text) for part in _CLITIC.split(word))


def _num_split(text: str, separator: str) -> int | None:
    """The number of parts, without empty ones at the ends; None where one between them is empty."""
    parts = [part.strip() for part in re.split(separator, text)]
    return sum(map(bool, parts)) if all(parts[1:-1]) else None


def _first_word(text: str, a: Arguments) -> bool:
    parts = text.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    if count != a["num_paragraphs"] or a["nth_paragraph"] > count:
        return False
    words = parts[a["nth_paragraph"] - 1].split()
    word = re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'))[0].lower() if words else ""
    return word == a["first_word"].lower()


def _postscript(text: str, a: Arguments) -> bool:
    marker = a["postscript_marker"].strip()
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(patterns.get(marker) or re.escape(marker.lower()), text.lower()))


def _num_bullets(text: str) -> int:
    return sum(len(re.findall(rf"^[^\S\n]*{mark}.*$", text, re.MULTILINE)) for mark in (r"\*[^*]", "-"))


def _num_highlights(text: str) -> int:
    single = [part for part in re.findall(r"\*[^\n*]*\*", text) if part.strip("*").strip()]
    return len(single) + sum(bool(part[2:-2].strip()) for part in re.findall(r"\*\*[^\n*]*\*\*", text))


def _num_placeholders(text: str) -> int:
    # Cut at the last "]" of its line: every "[" has its "]" then, and the search is linear.
    return sum(len(re.findall(r"\[.*?\]", line[: line.rfind("]") + 1])) for line in text.split("\n"))


def _is_title(line: str) -> bool:
    start, end = line.find("<<"), line.rfind(">>")
    return 0 <= start < end - 2 and bool(line[start : end + 2].lstrip("<").rstrip(">").strip())


def _is_json(text: str) -> bool:
    try:
        json.loads(re.sub(r"\A```(?:json)?|```\Z", "", text.strip(), flags=re.IGNORECASE))
    except (ValueError, RecursionError):
        return False
    return True


CHECKERS: dict[str, Callable[[str, Arguments], bool]] = {
    "keywords:existence": lambda text, a: all(_occurrences(text, word) for word in a["keywords"]),
    "keywords:frequency": lambda text, a: _compared(_occurrences(text, a["keyword"].strip()), a, "frequency"),
    "keywords:forbidden_words": lambda text, a: (
        not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in a["forbidden_words"])
    ),
    "keywords:letter_frequency": lambda text, a: _compared(
        text.lower().count(a["letter"].strip().lower()), a, "let_frequency", "let_relation"
    ),
    "language:response_language": lambda text, a: _is_language(text, a["language"]),
    "length_constraints:number_sentences": lambda text, a: _compared(_num_sentences(text), a, "num_sentences"),
    "length_constraints:number_paragraphs": lambda text, a: _num_split(text, r"\s?\*\*\*\s?") == a["num_paragraphs"],
    "length_constraints:number_words": lambda text, a: _compared(len(re.findall(r"\w+", text)), a, "num_words"),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": lambda text, a: _num_placeholders(text) >= a["num_placeholders"],
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": lambda text, a: _num_bullets(text) == a["num_bullets"],
    "detectable_format:constrained_response": lambda text, a: any(fixed in text for fixed in _FIXED_ANSWERS),
    "detectable_format:number_highlighted_sections": lambda text, a: _num_highlights(text) >= a["num_highlights"],
    "detectable_format:multiple_sections": lambda text, a: (  # so spelt in the data
        len(re.findall(rf"\s?{re.escape(a['section_spliter'].strip())}\s?\d+\s?", text)) >= a["num_sections"]
    ),
    "detectable_format:json_format": lambda text, a: _is_json(text),
    "detectable_format:title": lambda text, a: any(map(_is_title, text.split("\n"))),
    "combination:two_responses": lambda text, a: (
        _num_split(text, r"\*{6}") == 2 and len({part.strip() for part in text.split("******")} - {""}) == 2
    ),
    "combination:repeat_prompt": lambda text, a: text.strip().lower().startswith(a["prompt_to_repeat"].strip().lower()),
    "startend:end_checker": lambda text, a: text.strip().strip('"').lower().endswith(a["end_phrase"].strip().lower()),
    "startend:quotation": lambda text, a: len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] == '"',
    "change_case:capital_word_frequency": lambda text, a: _compared(
        _num_capital_words(text), a, "capital_frequency", "capital_relation"
    ),
    "change_case:english_capital": lambda text, a: text.isupper() and _is_language(text, "en"),
    "change_case:english_lowercase": lambda text, a: text.islower() and _is_language(text, "en"),
    "punctuation:no_comma": lambda text, a: "," not in text,
}
