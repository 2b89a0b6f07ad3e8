r"""Parts of a response: the reasoning, the answer, whether the form is the asked one. Tags are matched in text.

Style "r1_zero" (R1 v2 Table 1): ``<think>reasoning</think> <answer>answer</answer>``.
Style "r1": ``<think>reasoning</think>summary``; the opening tag may be part of the prompt and so be absent.

The style, and in which of ``ANSWERS`` the answer to be graded is, a chat template says
(`r1jax.text.chat.response_form`).
"""

import dataclasses
import re
from collections.abc import Sequence

STYLES = ("r1_zero", "r1")
ANSWERS = ("tags", "boxed", "tags_or_boxed", "summary")
PARTS = ("summary", "whole")

_R1_ZERO = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)
_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_BOX = r"\\(?:boxed|fbox|framebox(?:\s*\[[^\[\]]*\])*)(?![A-Za-z])\s*"
_BRACES = re.compile(rf"{_BOX}\{{|\\[^A-Za-z]|[{{}}]", re.DOTALL)
_BARE_BOX = re.compile(rf"{_BOX}(-?\d(?:[\d.,/]*\d)?|[A-Za-z](?![A-Za-z])|\\[A-Za-z]+(?:\s*\{{[^{{}}]*\}})*)")
_SPACE = r"(?:[\s$~]|\\[,;:() \[\]]|\\q?quad)*"
_NAME = r"\\?[A-Za-z]{1,8}(?:_(?:\w|\{\w+\}))?"
_PART = r"([(（](?:[1-9]|[a-e]|i{1,3}|iv|v)[)）])"
_BETWEEN_BOXES = re.compile(
    rf"{_SPACE}(?:[,;，；、]|(?:,\s*)?(?:and|or|或|和)|,?\s*\\text\s*\{{\s*,?\s*(?:and|or|或|和)\s*\}}){_SPACE}(?:({_NAME}){_SPACE}=)?{_SPACE}"
    rf"|{_SPACE}[,;.，；。、]?{_SPACE}{_PART}{_SPACE}(?:{_NAME}{_SPACE}=)?{_SPACE}"
)
_NAME_BEFORE = re.compile(rf"(?<![A-Za-z\\])({_NAME}){_SPACE}={_SPACE}$|{_PART}{_SPACE}(?:{_NAME}{_SPACE}=)?{_SPACE}$")
_MAX_GAP = 60  # characters between two boxes of one answer
_ANSWER_LINE = re.compile(
    r"^[ \t>*_#]*(?:(?:the |my )?(?:final |correct )?answer(?: is)?[ \t*_]*[:：]|(?:故|所以)?(?:最终|正确)?答案(?:是|为)?[ \t*]*[:：]|####)"
    r"[*_\s]*(\S.*)$|(?:^|[.!?]\s+)(?:(?:so|thus|hence|therefore),? )?the final answer is:? "
    r"(?:\$([^$\n]+)\$|([^\s$*][^\n$*]{0,40}?))\.?(?=[ \t]*(?:$|I hope))"
    r"|\*\*(?:final )?answer\s*[:：]\s*([^*\s][^*\n]*)\*\*\.?(?=\s*$)"
    r"|(?:^|[\s，,。.;；：:]|所以|因此|故|则|最终|本题|(?<!不)正确)的?答案(?:是|为)"
    r"[ \t]*[:：]?[ \t]*(?!不|否|什么|多少)([^\s，,。；;：:?？吗][^，,。；;：:\n?？吗]{0,60})[。.]?(?=[ \t]*$)"
    r"|^[ \t]*(?:#+|\*\*)[ \t]*(?:final )?answer[ \t*]*\n\s*(\S.*)$",
    re.IGNORECASE | re.MULTILINE,
)
_MAX_BOXES = 40


@dataclasses.dataclass(frozen=True)
class Response:
    """What a response consists of."""

    think: str | None  # the reasoning, trimmed; None without a closed think block
    answer: str | None  # "r1_zero": the last closed <answer>; "r1": the summary. Trimmed; None where absent or empty
    well_formed: bool
    """The whole text has the asked form, with letters or digits in the reasoning (dots are no thought) and something to be
    seen in the answer."""


def parse(text: str, *, style: str = "r1_zero") -> Response:
    """Splits a response into its parts. ValueError: unknown style.

    An ill-formed response still gives what can be seen in it: accuracy and format are judged apart.
    """
    _require("response style", style, STYLES)
    if style == "r1_zero":
        think, closing, _ = text.partition("<think>")[2].partition("</think>")
        whole = _R1_ZERO.fullmatch(text) if all(text.count(tag) == 1 for tag in _TAGS) else None
        well_formed = whole is not None and _has_content(whole[1], whole[2])
        return Response(think.strip() if closing else None, _last_tagged(text), well_formed)
    before, closing, after = text.partition("</think>")
    if not closing:
        return Response(None, None, False)
    think, summary = before.strip().removeprefix("<think>").strip(), after.strip()
    tags_left = any(tag in part for part in (think, summary) for tag in ("<think>", "</think>"))
    return Response(think, summary or None, _has_content(think, summary) and not tags_left)


def final_answer(text: str, *, style: str = "r1_zero", answer: str | None = None) -> str | None:
    r"""The answer to be graded, trimmed, or None where there is none. ValueError: unknown style or way.

    It follows ``</think>``: with style "r1" a text without it has no answer, with "r1_zero" all of it is looked at.

    answer: "tags" (by default with "r1_zero"): the inside of the last closed ``<answer>``, of which the boxes if it has
      some; "boxed": the boxes, see ``boxed_answer``; "tags_or_boxed": the first of these that is there; "summary" (by
      default with "r1"): the same, or else all that follows the thought.
    """
    answer = answer or ("summary" if style == "r1" else "tags")
    _require("response style", style, STYLES)
    _require("answer", answer, ANSWERS)
    _, closing, after = text.rpartition("</think>") if style == "r1_zero" else text.partition("</think>")
    if style == "r1" and not closing:
        return None
    if answer != "boxed":
        inside = _last_tagged(after)
        if inside is not None:
            box = boxed_answer(inside)
            return inside if box is None else box
    if answer == "tags":
        return None
    box = boxed_answer(after)
    return box if box is not None or answer != "summary" else after.strip() or None


def split_thought(text: str, *, prompt: str = "") -> tuple[str | None, str | None]:
    """(thought, what follows it) of a response that may have been cut off, both trimmed.

    The thought is None where the text has none; what follows is None while the thought has no end. A prompt that ends
    with ``<think>`` has opened the thought.
    """
    before, closing, after = text.partition("</think>")
    _, opening, thought = before.partition("<think>")
    if not (opening or closing or prompt.rstrip().endswith("<think>")):
        return None, text.strip()
    return (thought if opening else before).strip(), after.strip() if closing else None


def summary_of(text: str, *, prompt: str = "") -> str | None:
    """What a response says after its thought, trimmed: all of it where it does not think; None for a thought without
    end.

    A prompt that ends with ``<think>`` has opened the thought.
    """
    _, closing, after = text.rpartition("</think>")
    is_open = "<think>" in after or (not closing and prompt.rstrip().endswith("<think>"))
    return None if is_open else after.strip()


def part_of(text: str, part: str, *, prompt: str = "") -> str | None:
    """The part of a response that a reward model reads: its summary (see ``summary_of``), or the whole of it."""
    _require("part", part, PARTS)
    return summary_of(text, prompt=prompt) if part == "summary" else text


def boxed_answer(text: str) -> str | None:
    """That of the last box and of those before it with only a comma, "and" or "or" between, joined by commas: one answer."""
    run = boxes(text)
    return ", ".join(run) if run else None


def marked_answer(text: str) -> str | None:
    r"""The answer that a text marks, be it a response or a reference: its boxes, else its last line "Answer: ..." or "#### ..."."""
    box = boxed_answer(text)
    lines = [] if box is not None else _ANSWER_LINE.findall(text)
    return "".join(lines[-1]).strip(" *_\t") or None if lines else box


def boxes(text: str) -> list[str]:
    r"""The trimmed contents of the last box and of those before it with only a comma, "and" or "or" between, each once.

    A box is ``\boxed{...}``, ``\fbox{...}`` or ``\framebox{...}`` with balanced braces (``\{``, ``\}`` are none), or
    ``\boxed 5``. Of ``x=\boxed{2}, y=\boxed{3}`` the names belong to the contents.
    """
    found = [(match.start(), match.end(), match[1]) for match in _BARE_BOX.finditer(text)]
    open_braces = []
    for match in _BRACES.finditer(text):
        if match.group().endswith("{") and match.group() != r"\{":
            open_braces.append(match)
        elif match.group() == "}" and open_braces:
            opening = open_braces.pop()
            if opening.group() != "{":
                found.append((opening.start(), match.end(), text[opening.end() : match.start()].strip()))
    found.sort(reverse=True)
    run, names = found[:1], []
    for box in found[1:_MAX_BOXES]:
        start = run[-1][0]
        between = None if not box[1] <= start <= box[1] + _MAX_GAP else _BETWEEN_BOXES.fullmatch(text, box[1], start)
        if between is None:
            break
        names.append(_label(between))
        run.append(box)
    if any(names):
        before = _NAME_BEFORE.search(text[max(0, run[-1][0] - _MAX_GAP) : run[-1][0]])
        names.append(_label(before) if before else "")
    labels = names if any(names) else [""] * len(run)
    ends = text[run[-1][0] - 1 : run[-1][0]] + text[run[0][1] : run[0][1] + 1] if run else ""
    if len(run) > 1 and ends in ("()", "[]"):
        return [f"{ends[0]}{', '.join(box[2] for box in reversed(run))}{ends[1]}"]
    return list(dict.fromkeys(label + box[2] for label, box in zip(reversed(labels), reversed(run), strict=True)))


def _label(match: re.Match[str]) -> str:
    """``(1) `` or ``x=``, or nothing, as a label of a box."""
    return f"{match[2]} " if match[2] else f"{match[1]}=" if match[1] else ""


def is_cut_off(stop_reason: Sequence[str] | None, count: int) -> list[bool]:
    """[count] whether a response was cut off at the length limit, and so has no final answer (spec G.12); by default not."""
    return [reason == "length" for reason in stop_reason or ["stop"] * count]


def _require(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} {value!r}: must be one of {', '.join(known)}")


def _last_tagged(text: str) -> str | None:
    """The inside of the last closed ``<answer>``, trimmed; None where absent or empty."""
    answers = _ANSWER.findall(text)
    return (answers[-1].strip() or None) if answers else None


def _has_content(think: str, answer: str) -> bool:
    seen = any(character.isprintable() and not character.isspace() for character in answer)
    return seen and any(map(str.isalnum, think))
