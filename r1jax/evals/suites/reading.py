r"""Where the answer stands in a summary, for each form that a suite asks for.

All take the summary and the problem, and give the answer or None. Where an answer is given several times the last one
counts: simple-evals takes the first "Answer:", which may be one that the text goes on to reject.
"""

import json
import re

from r1jax.rewards import math
from r1jax.rewards.choice import read_letter
from r1jax.tasks.problem import Problem
from r1jax.text.response import boxed_answer

_TAIL = 16_384  # characters at the end of a summary, where its answer is
_STRESS = r"[\s*_`$\"'“”]{0,8}"
_OPEN = rf"{_STRESS}(?:\\(?:boxed|text|mathrm|textbf)\s*\{{{_STRESS})*[(\[（]?{_STRESS}"
_OPTION = rf"{_OPEN}(?:(?i:option|choice){_OPEN})?"
_ENDS = r"(?=\s*(?:[.,;:)\]}*_$\"'。，）]|\\|\Z|\n))"  # in prose "a", "I" and the like go on
_LETTER = re.compile(
    rf"(?i:\banswer){_STRESS}(?:(?i:is){_STRESS})?[:：]{_OPTION}((?i:[A-J]))(?![\w'])"
    rf"|(?i:\banswer){_STRESS}(?i:is){_OPTION}([A-J]){_ENDS}"
    rf"|答案{_STRESS}(?:应?是|应?为|选)?{_STRESS}[:：]?{_OPTION}([A-J])(?![A-Za-z'])"
)
_LINE = re.compile(
    rf"^{_STRESS}(?:final {_STRESS})?answer{_STRESS}[:：]{_STRESS}(\S.*?)\s*$", re.IGNORECASE | re.MULTILINE
)


def letter(summary: str, problem: Problem) -> str | None:
    """A letter: the last "Answer: B", "The answer is (B)", "答案：B"; else that of the last box; else a summary that is one."""
    options = len(problem.columns.get("choices") or "ABCDEFGHIJ")
    found = [(match[1] or match[2] or match[3]).upper() for match in _LETTER.finditer(summary[-_TAIL:])]
    if not found:
        box = boxed_answer(summary[-_TAIL:])
        named = read_letter(summary if box is None else box) if len(box or summary) <= 1000 else None
        found = [named] if named else []
    return found[-1] if found and ord(found[-1]) - ord("A") < options else None


def json_letter(summary: str, problem: Problem) -> str | None:
    """The letter of the field "answer" of the last JSON object in the summary; without one as ``letter``."""
    summary = summary[-_TAIL:]
    decoder = json.JSONDecoder(strict=False)
    for place in reversed([match.start() for match in re.finditer(r"\{", summary)][-200:]):
        try:
            value, _ = decoder.raw_decode(summary, place)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and isinstance(value.get("answer"), str):
            return read_letter(value["answer"])
    field = re.findall(r"\"answer\"\s*:\s*\"\s*\(?([A-J])\b", summary)  # JSON that LaTeX has broken
    return field[-1] if field else letter(summary, problem)


def answer_line(summary: str, problem: Problem) -> str | None:
    """The rest of the last line "Answer: ..."; else what the last box holds."""
    found = _LINE.findall(summary[-_TAIL:])
    return found[-1].strip(" *_`") or None if found else boxed_answer(summary[-_TAIL:])


def mathematics(summary: str, problem: Problem) -> str | None:
    r"""The last ``\boxed{}``, or what else ``rewards.math`` takes for the final answer."""
    return math.extract(summary)


def whole(summary: str, problem: Problem) -> str | None:
    """All of the summary."""
    return summary
