r"""The mini's rewriter and judge: rules that stand for DeepSeek-V3, for worked `pair_sum` problems.

Raw notes, in the words of `corpus` and in English, Chinese or both:

    <think> 一 17 + 8 = 25 vs 18 big 再试 17 + 10 = 28 check 17 + 10 = 27 vs 18 大 wait 8 + 10 = 18 vs 18 yes </think>
    <answer> 8 + 10 </answer>

become English in the first person, step by step and faithful: nothing is added, mended or left out but the counting
words.

    <think>
    I try 17 + 8 = 25 vs 18, too big.
    I retry with 17 + 10 = 28, let me check: 17 + 10 = 27 vs 18, too big.
    Wait, I try 8 + 10 = 18 vs 18, yes.
    </think>

    The two numbers are 8 and 10, since 8 + 10 = 18: \boxed{8 + 10}

Notes that are wrong or unreadable are rejected with the reason. Same notes, same text.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.tasks.mini.corpus import BIG, COUNT, GIVE_UP, GO_ON, HIT, NOTICE, SMALL, VERIFY, corpus_text
from r1jax.tasks.mini.pair_sum import PairSum
from r1jax.tasks.problem import stable_hash
from r1jax.text.response import final_answer
from r1jax.text.sample import Chat, Rejection, Sample, r1_text


def _any(*kinds: Mapping[str, Sequence[str]]) -> str:
    """A pattern of any word of these kinds, in either language."""
    return "|".join(word for kind in kinds for words in kind.values() for word in words)


_TRIED = ("I retry with", "Wait, I try", "That is wrong, I try")  # in the order of `GO_ON`
_OPENINGS = {word: text for words in GO_ON.values() for word, text in zip(words, _TRIED, strict=True)}
_VERDICTS = {"too big": BIG, "too small": SMALL, "yes": HIT}
_ATTEMPT = re.compile(
    rf"(?:(?P<verify>{_any(VERIFY)}) |(?:(?P<go_on>{_any(GO_ON)}) )?(?:(?:{_any(COUNT)}) )*)"
    rf"(?P<slips>(?:\d+ \+ \d+ = \d+ (?:{_any(NOTICE)}) )*)"
    rf"(?P<sum>\d+ \+ \d+ = (?P<total>\d+)) vs (?P<target>\d+) (?P<verdict>{_any(*_VERDICTS.values())})(?: |$)"
)
_TRIES = 100
_CANONICAL = PairSum().canonical
_SUM = re.compile(r"(\d+)\s*\+\s*(\d+)\s*=\s*(\d+)")


def rewrite(samples: Sequence[Sample], *, chat: Chat | None = None, seed: int = 0) -> list[str | Exception]:
    """The samples in the form of R1, or a ``Rejection``, from the columns "numbers" and "target"; no model is asked."""
    return [_rewritten(sample) for sample in samples]


def judge(samples: Sequence[Sample], *, chat: Chat | None = None, seed: int = 0) -> list[dict[str, str] | Exception]:
    """Verdicts as `rewards.judge.parse_verdict` gives them: correct where the answer is and every sum that is written
    is.

    A sum that the next words take back (check, 检查) may be wrong.
    """
    verdicts: list[dict[str, str] | Exception] = []
    for sample in samples:
        kept = re.sub(rf"{_SUM.pattern}(?=,? (?:let me )?(?:{_any(NOTICE)}))", " ", sample.text)
        wrong = [match[0] for match in _SUM.finditer(kept) if int(match[1]) + int(match[2]) != int(match[3])]
        said = f"{wrong[0]} is wrong." if wrong else f"The answer is {sample.answer}, the reference {sample.reference}."
        is_correct = sample.is_correct and not wrong
        verdicts.append({"analysis": said, "correctness": "correct" if is_correct else "incorrect"})
    return verdicts


def prose_text(index: int, *, seed: int, config: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """(question, rewritten notes of a careful author); the arguments are those of ``corpus.corpus_text``."""
    for attempt in range(_TRIES):
        number = stable_hash("prose_text", index, attempt) % 2**40
        question, text = corpus_text(number, seed=seed, mixture={"careful": 1.0}, config=config)
        *numbers, target = map(int, re.findall(r"\d+", question))
        columns = {"numbers": numbers, "target": target}
        raw = Sample(messages=[], text=text, answer=final_answer(text), is_correct=True, columns=columns)
        written = _rewritten(raw)
        if not isinstance(written, Rejection):
            return question, written
    raise ValueError(f"no trace of {_TRIES} can be rewritten, with config {dict(config or {})}")


def _rewritten(sample: Sample) -> str | Rejection:
    thought, target = sample.parts.think, sample.columns["target"]
    try:
        if not thought:
            raise Rejection("rewrite: no thought to rewrite")
        lines, (first, second) = _lines(thought, numbers=sample.columns["numbers"], target=target)
        answer = f"{first} + {second}"
        if _CANONICAL(sample.answer or "") != _CANONICAL(answer):
            raise Rejection("rewrite: another answer than in the thought")
    except Rejection as rejection:
        return rejection
    summary = f"The two numbers are {first} and {second}, since {answer} = {target}: \\boxed{{{answer}}}"
    return r1_text("\n".join(lines), summary)


def _lines(notes: str, *, numbers: Sequence[int], target: int) -> tuple[list[str], tuple[int, int]]:
    """A line for each attempt, and the pair that fits. Raises Rejection for notes that are wrong or unreadable."""
    notes = " ".join(notes.split())
    lines: list[str] = []
    pair, end, is_hit = (0, 0), 0, False
    while end < len(notes):
        attempt = _ATTEMPT.match(notes, end)
        if lines and not is_hit and re.compile(_any(GIVE_UP)).match(notes, end):
            raise Rejection("rewrite: gives up")
        if (
            attempt is None
            or bool(attempt["verify"]) != is_hit
            or bool(attempt["go_on"]) != (bool(lines) and not is_hit)
        ):
            raise Rejection("rewrite: unreadable notes")
        for first, second, _ in _SUM.findall(attempt[0]):
            pair = int(first), int(second)
            if pair[0] == pair[1] or not set(pair) <= set(numbers):
                raise Rejection("rewrite: another pair")
        if sum(pair) != int(attempt["total"]):
            raise Rejection("rewrite: wrong sum")
        if int(attempt["target"]) != target:
            raise Rejection("rewrite: another target")
        verdict = "yes" if sum(pair) == target else "too big" if sum(pair) > target else "too small"
        if attempt["verdict"] not in sum(_VERDICTS[verdict].values(), ()):
            raise Rejection("rewrite: wrong comparison")
        opening = "I verify:" if attempt["verify"] else _OPENINGS.get(attempt["go_on"], "I try")
        steps = re.sub(rf" (?:{_any(NOTICE)}) ", ", let me check: ", attempt["slips"]) + attempt["sum"]
        lines.append(f"{opening} {steps} vs {target}, {verdict}.")
        end, is_hit = attempt.end(), verdict == "yes"
    if not is_hit:
        raise Rejection("rewrite: unreadable notes")
    return lines, pair
