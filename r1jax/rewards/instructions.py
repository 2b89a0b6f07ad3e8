"""IF-Eval: does a response follow instructions that can be checked without a judge (Zhou et al. 2023; spec D.2).

The rules are those of the official checkers, "strict", for the 20 of its 25 instructions that need neither a language
detector nor a sentence splitter. Not checked, so not part of ``CHECKERS``: ``language:response_language``,
``change_case:english_capital``, ``change_case:english_lowercase``, ``change_case:capital_word_frequency``,
``length_constraints:number_sentences``. One deviation: keywords are taken literally, not as regular expressions.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1jax.text.response import is_cut_off, parse, summary_of

Arguments = Mapping[str, Any]


def follows(
    prompts: Sequence[str],
    completions: Sequence[str],
    instruction_id_list: Sequence[Sequence[str] | None],
    kwargs: Sequence[Sequence[Arguments] | None],
    stop_reason: Sequence[str] | None = None,
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
            scores.append(float(not cut and follows_all(_answer(text, prompt), names, arguments)))
        except ValueError as error:
            scores.append(error)
    return scores


def follows_all(answer: str, names: Sequence[str], arguments: Sequence[Arguments]) -> bool:
    """True if an answer is not blank and follows every instruction (prompt-level strict accuracy).

    Raises:
        ValueError: an instruction without a checker, or without an argument that its checker needs.
    """
    for name in names:
        if name not in CHECKERS:
            raise ValueError(f"instruction {name!r} has no checker; there are {', '.join(sorted(CHECKERS))}")
    if not answer.strip():
        return False
    try:
        return all(CHECKERS[name](answer, given) for name, given in zip(names, arguments, strict=True))
    except (KeyError, TypeError) as error:
        raise ValueError(f"instructions {', '.join(names)}: bad arguments {list(arguments)}: {error!r}") from error


def _answer(text: str, prompt: str) -> str:
    """What is to follow the instructions; empty where the thought has no end."""
    summary = summary_of(text, prompt=prompt) or ""
    inside = parse(summary).answer
    return summary if inside is None else inside


def _compared(count: int, relation: str, bound: float) -> bool:
    if relation not in ("less than", "at least"):
        raise KeyError(f"relation {relation!r}")
    return count < bound if relation == "less than" else count >= bound


def _occurrences(text: str, word: str) -> int:
    return len(re.findall(re.escape(word), text, re.IGNORECASE))


def _paragraphs(text: str, arguments: Arguments) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", text)
    if any(not part.strip() for part in parts[1:-1]):
        return False
    return sum(bool(part.strip()) for part in parts) == arguments["num_paragraphs"]


def _first_word(text: str, arguments: Arguments) -> bool:
    parts = text.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    if count != arguments["num_paragraphs"] or arguments["nth_paragraph"] > count:
        return False
    words = parts[arguments["nth_paragraph"] - 1].split()
    word = re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'))[0].lower() if words else ""
    return word == arguments["first_word"].lower()


def _postscript(text: str, arguments: Arguments) -> bool:
    marker = arguments["postscript_marker"]
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    pattern = patterns.get(marker) or re.escape(marker.lower())
    return bool(re.search(pattern, text.lower()))


def _bullets(text: str, arguments: Arguments) -> bool:
    bullets = (re.findall(pattern, text, re.MULTILINE) for pattern in (r"^[^\S\n]*\*[^*].*$", r"^[^\S\n]*-.*$"))
    return sum(map(len, bullets)) == arguments["num_bullets"]


def _highlights(text: str, arguments: Arguments) -> bool:
    single = [part for part in re.findall(r"\*[^\n*]*\*", text) if part.strip("*").strip()]
    double = [part for part in re.findall(r"\*\*[^\n*]*\*\*", text) if part[2:-2].strip()]
    return len(single) + len(double) >= arguments["num_highlights"]


def _sections(text: str, arguments: Arguments) -> bool:
    mark = re.escape(arguments["section_spliter"])  # so spelt in the data
    return len(re.findall(rf"\s?{mark}\s?\d+\s?", text)) >= arguments["num_sections"]


def _placeholders(text: str, arguments: Arguments) -> bool:
    # Cut at the last "]" of its line: every "[" has its "]" then, and the search is linear.
    lines = (line[: line.rfind("]") + 1] for line in text.split("\n"))
    return sum(len(re.findall(r"\[.*?\]", line)) for line in lines) >= arguments["num_placeholders"]


def _is_title(line: str) -> bool:
    start, end = line.find("<<"), line.rfind(">>")
    return 0 <= start < end - 2 and bool(line[start : end + 2].lstrip("<").rstrip(">").strip())


def _is_json(text: str, arguments: Arguments) -> bool:
    inside = re.sub(r"\A```(?:json)?|```\Z", "", text.strip(), flags=re.IGNORECASE)
    try:
        json.loads(inside)
    except (ValueError, RecursionError):
        return False
    return True


def _two_responses(text: str, arguments: Arguments) -> bool:
    parts = [part.strip() for part in text.split("******")]
    if not all(parts[1:-1]):
        return False
    parts = [part for part in parts if part]
    return len(parts) == 2 and parts[0] != parts[1]


_FIXED_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")

CHECKERS: dict[str, Callable[[str, Arguments], bool]] = {
    "keywords:existence": lambda text, a: all(_occurrences(text, word) for word in a["keywords"]),
    "keywords:frequency": lambda text, a: _compared(_occurrences(text, a["keyword"]), a["relation"], a["frequency"]),
    "keywords:forbidden_words": lambda text, a: (
        not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in a["forbidden_words"])
    ),
    "keywords:letter_frequency": lambda text, a: _compared(
        text.lower().count(a["letter"].lower()), a["let_relation"], a["let_frequency"]
    ),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": lambda text, a: _compared(
        len(re.findall(r"\w+", text)), a["relation"], a["num_words"]
    ),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": lambda text, a: any(fixed in text for fixed in _FIXED_ANSWERS),
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _is_json,
    "detectable_format:title": lambda text, a: any(map(_is_title, text.split("\n"))),
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": lambda text, a: text.strip().lower().startswith(a["prompt_to_repeat"].strip().lower()),
    "startend:end_checker": lambda text, a: text.strip().strip('"').lower().endswith(a["end_phrase"].strip().lower()),
    "startend:quotation": lambda text, a: len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] == '"',
    "punctuation:no_comma": lambda text, a: "," not in text,
}
