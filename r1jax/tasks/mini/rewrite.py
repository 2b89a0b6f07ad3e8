r"""The mini's rewriter and judge: rules in the place of DeepSeek-V3, for worked `pair_sum` problems.

Raw notes, in the words of `corpus` and in English, Chinese or both:

    <think> 一 17 + 8 = 25 vs 18 big 再试 17 + 10 = 28 check 17 + 10 = 27 vs 18 大 wait 8 + 10 = 18 vs 18 yes </think>
    <answer> 8 + 10 </answer>

become English in the first person, step by step and faithful: nothing is added, mended or left out but the counting words.

    <think>
    I try 17 + 8 = 25 vs 18, too big.
    I retry with 17 + 10 = 28, let me check: 17 + 10 = 27 vs 18, too big.
    Wait, I try 8 + 10 = 18 vs 18, yes.
    </think>

    The two numbers are 8 and 10, since 8 + 10 = 18: \boxed{8 + 10}

Notes that cannot be told so, since they are wrong or unreadable, are rejected with the reason. Same notes, same text.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.tasks.mini.corpus import BIG, COUNT, GIVE_UP, GO_ON, HIT, NOTICE, SMALL, VERIFY, corpus_text
from r1jax.tasks.mini.pair_sum import PairSum
from r1jax.tasks.problem import stable_hash
from r1jax.text.response import final_answer
from r1jax.text.sample import Chat, Rejection, Sample, r1_text

_KINDS = {"big": BIG, "small": SMALL, "hit": HIT, "go on": GO_ON, "notice": NOTICE, "verify": VERIFY, "count": COUNT}
_WORDS = {
    word: (kind, forms["en"][place])
    for kind, forms in (_KINDS | {"give up": GIVE_UP}).items()
    for words in forms.values()
    for place, word in enumerate(words)
}
"""Every word of the corpus -> (its kind, the same in English)."""
_VERDICTS = {"big": "too big", "small": "too small", "hit": "yes"}
_OPENINGS = {"retry": "I retry with", "wait": "Wait, I try", "wrong": "That is wrong, I try"}
_EVENT = re.compile(
    r"(?:(?P<word>[^\W\d]+)|(?P<a>\d+) \+ (?P<b>\d+) = (?P<total>\d+)(?: vs (?P<target>\d+))?)(?:\s+|$)"
)
_TRIES = 100
_CANONICAL = PairSum().canonical
_SUM = re.compile(r"(\d+)\s*\+\s*(\d+)\s*=\s*(\d+)")


def rewrite(samples: Sequence[Sample], *, chat: Chat | None = None, seed: int = 0) -> list[str | Exception]:
    """The samples as clean English in the form of R1, a ``Rejection`` in the place of one that cannot be told so.

    The columns "numbers" and "target" of the problems are needed; no model is asked.
    """
    return [_rewritten(sample) for sample in samples]


def judge(samples: Sequence[Sample], *, chat: Chat | None = None, seed: int = 0) -> list[dict[str, str] | Exception]:
    """Verdicts as `rewards.judge.parse_verdict` gives them: correct where the answer is and every sum that is written is.

    A sum that the next words take back (check, 检查) may be wrong.
    """
    return [_verdict(sample) for sample in samples]


def prose_text(index: int, *, seed: int, config: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """(question, rewritten notes of a careful author): a worked problem as somebody wrote it down who writes clearly.

    Args:
        index, seed, config: of ``corpus.corpus_text``; of another index the notes are others.
    """
    for attempt in range(_TRIES):
        place = stable_hash("prose_text", index, attempt) % 2**40
        question, text = corpus_text(place, seed=seed, mixture={"careful": 1.0}, config=config)
        *numbers, target = map(int, re.findall(r"\d+", question))
        columns = {"numbers": numbers, "target": target}
        raw = Sample(messages=[], text=text, answer=final_answer(text), is_correct=True, columns=columns)
        written = _rewritten(raw)
        if not isinstance(written, Rejection):
            return question, written
    raise ValueError(f"no trace of {_TRIES} can be rewritten, with config {dict(config or {})}")


def _verdict(sample: Sample) -> dict[str, str]:
    taken_back = "|".join(word for words in NOTICE.values() for word in words)
    kept = re.sub(rf"{_SUM.pattern}(?=,? (?:let me )?(?:{taken_back}))", " ", sample.text)
    wrong = [match[0] for match in _SUM.finditer(kept) if int(match[1]) + int(match[2]) != int(match[3])]
    if wrong:
        return {"analysis": f"{wrong[0]} is wrong.", "correctness": "incorrect"}
    analysis = f"The answer is {sample.answer}, the reference {sample.reference}."
    return {"analysis": analysis, "correctness": "correct" if sample.is_correct else "incorrect"}


def _rewritten(sample: Sample) -> str | Rejection:
    thought = sample.parts.think
    try:
        if not thought:
            raise Rejection("rewrite: no thought to rewrite")
        lines, (first, second) = _lines(thought, numbers=sample.columns["numbers"], target=sample.columns["target"])
        if _CANONICAL(sample.answer or "") != _CANONICAL(f"{first} + {second}"):
            raise Rejection("rewrite: another answer than in the thought")
    except Rejection as rejection:
        return rejection
    target = sample.columns["target"]
    summary = (
        f"The two numbers are {first} and {second}, since {first} + {second} = {target}: \\boxed{{{first} + {second}}}"
    )
    return r1_text("\n".join(lines), summary)


def _lines(notes: str, *, numbers: Sequence[int], target: int) -> tuple[list[str], tuple[int, int]]:
    """A line for each attempt, and the pair that fits."""
    lines: list[str] = []
    opening, pair, last = "I try", (0, 0), "go on"
    text = ""  # of the attempt that has begun
    for event in _events(notes):
        kind, word = _WORDS.get(event["word"] or "", ("", ""))
        if kind == "count" and last == "go on" and not text:
            continue
        if event["word"] is None and last in ("go on", "verify", "notice"):
            pair = int(event["a"] or 0), int(event["b"] or 0)
            if pair[0] == pair[1] or not set(pair) <= set(numbers):
                raise Rejection("rewrite: another pair")
            tried = f"{event['a']} + {event['b']} = {event['total']}"
            text = " ".join(part for part in (text, opening, tried) if part)
            last = "sum"
            if event["target"] is not None:
                if sum(pair) != int(event["total"] or 0):
                    raise Rejection("rewrite: wrong sum")
                if int(event["target"]) != target:
                    raise Rejection("rewrite: another target")
                text, last = f"{text} vs {event['target']}", "compared"
        elif kind == "notice" and last == "sum":
            text, opening, last = f"{text}, let me check:", "", "notice"
        elif kind in _VERDICTS and last == "compared":
            if kind != ("hit" if sum(pair) == target else "big" if sum(pair) > target else "small"):
                raise Rejection("rewrite: wrong comparison")
            lines.append(f"{text}, {_VERDICTS[kind]}.")
            text, last = "", "hit" if kind == "hit" else "miss"
        elif (kind == "go on" and last == "miss") or (kind == "verify" and last == "hit"):
            opening, last = ("I verify:" if kind == "verify" else _OPENINGS[word]), kind
        elif kind == "give up" and last == "miss":
            raise Rejection("rewrite: gives up")
        else:
            raise Rejection("rewrite: unreadable notes")
    if last != "hit":
        raise Rejection("rewrite: unreadable notes")
    return lines, pair


def _events(notes: str) -> list[dict[str, str | None]]:
    """The words and sums of the notes, in order. Raises Rejection for anything else between them."""
    notes = " ".join(notes.split())
    events = list(_EVENT.finditer(notes))
    if "".join(event[0] for event in events) != notes:
        raise Rejection("rewrite: unreadable notes")
    return [event.groupdict() for event in events]
