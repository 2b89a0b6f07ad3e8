"""The mini's rewriter and judge on notes in the words of the corpus."""

import re
from collections import Counter

import pytest

from r1jax.tasks.mini.corpus import corpus_text
from r1jax.tasks.mini.general_texts import tokenizer_text
from r1jax.tasks.mini.pair_sum import PairSum
from r1jax.tasks.mini.rewrite import judge, rewrite
from r1jax.text.response import final_answer, parse
from r1jax.text.sample import Rejection, Sample


def sample(notes, *, answer="8 + 10", is_correct=True, numbers=(17, 8, 10, 3), target=18):
    return Sample(
        messages=[{"role": "user", "content": "?"}],
        text=f" <think> {notes} </think> <answer> {answer} </answer>",
        answer=answer,
        is_correct=is_correct,
        reference="8+10",
        columns={"task": "pair_sum", "numbers": list(numbers), "target": target},
    )


def test_literal():
    notes = (
        "一 17 + 8 = 25 vs 18 big 再试 two 17 + 10 = 28 check 17 + 10 = 27 vs 18 大 wait 17 + 3 = 20 vs 18 大 "
        "错 3 + 10 = 13 vs 18 小 retry 8 + 10 = 18 vs 18 yes 验证 8 + 10 = 18 vs 18 对"
    )
    (text,) = rewrite([sample(notes)])
    assert text == (
        "<think>\n"
        "I try 17 + 8 = 25 vs 18, too big.\n"
        "I retry with 17 + 10 = 28, let me check: 17 + 10 = 27 vs 18, too big.\n"
        "Wait, I try 17 + 3 = 20 vs 18, too big.\n"
        "That is wrong, I try 3 + 10 = 13 vs 18, too small.\n"
        "I retry with 8 + 10 = 18 vs 18, yes.\n"
        "I verify: 8 + 10 = 18 vs 18, yes.\n"
        "</think>\n\n"
        "The two numbers are 8 and 10, since 8 + 10 = 18: \\boxed{8 + 10}"
    )
    assert rewrite([sample(notes)]) == [text]


@pytest.mark.parametrize(
    ("notes", "options", "reason"),
    [
        ("8 + 10 = 19 vs 18 yes", {}, "wrong sum"),
        ("8 + 10 = 18 vs 19 yes", {}, "another target"),
        ("8 + 10 = 18 vs 18 big", {}, "wrong comparison"),
        ("8 + 9 = 17 vs 18 small", {}, "another pair"),
        ("8 + 8 = 16 vs 18 small", {}, "another pair"),
        ("17 + 8 = 25 vs 18 big whatever", {}, "gives up"),
        ("17 + 8 = 25 vs 18 big", {}, "unreadable notes"),
        ("8 + 10 = 18 vs 18 yes yes", {}, "unreadable notes"),
        ("8 + 10 = 18 vs 18 yes retry 17 + 8 = 25 vs 18 big", {}, "unreadable notes"),
        ("8 + 10 = 18 check", {}, "unreadable notes"),
        ("8 + 10 = 18 vs 18 yes !", {}, "unreadable notes"),
        ("it is 8", {}, "unreadable notes"),
        ("8 + 10 = 18 vs 18 yes", {"answer": "17 + 3"}, "another answer than in the thought"),
        ("", {}, "no thought to rewrite"),
    ],
)
def test_what_cannot_be_told_is_rejected(notes, options, reason):
    (rejection,) = rewrite([sample(notes, **options)])
    assert isinstance(rejection, Rejection) and str(rejection) == f"rewrite: {reason}"


def test_correct_traces_of_the_corpus_become_english_that_grades_the_same():
    task, outcomes = PairSum(), Counter()
    for index in range(400):
        question, text = corpus_text(index, seed=3, mixture={"careful": 1.0, "few": 1.0})
        *numbers, target = map(int, re.findall(r"\d+", question))
        answer = final_answer(text)
        if answer is None or sum(map(int, answer.split(" + "))) != target:
            continue
        one = Sample(
            messages=[{"role": "user", "content": question}],
            text=text,
            answer=answer,
            is_correct=True,
            columns={"numbers": numbers, "target": target},
        )
        (content,) = rewrite([one])
        outcomes[str(content) if isinstance(content, Rejection) else "rewritten"] += 1
        if not isinstance(content, Rejection):
            assert parse(content, style="r1").well_formed and not re.search(r"[^\x00-\x7f]", content)
            assert task.canonical(final_answer(content, style="r1") or "") == task.canonical(answer)
            count = len(re.findall(r"\d+ \+ \d+ = \d+", text))  # no step more or less, and the summary's own
            assert len(re.findall(r"\d+ \+ \d+ = \d+", content)) == count + 1
    assert set(outcomes) == {"rewritten"} and outcomes["rewritten"] > 200  # these authors notice all of their slips


def test_the_judge_reads_the_sums():
    right, slip = "8 + 10 = 18 vs 18 yes", "17 + 8 = 24 vs 18 big retry 8 + 10 = 18 vs 18 yes"
    taken_back = "17 + 8 = 24 check 17 + 8 = 25 vs 18 big retry 8 + 10 = 18 vs 18 yes"
    (clean,) = rewrite([sample(taken_back)])
    assert isinstance(clean, str)
    told = Sample(messages=[], text=clean, is_correct=True)
    samples = [sample(right), sample(slip), sample(taken_back), told, sample(right, is_correct=False)]
    verdicts = [verdict["correctness"] for verdict in judge(samples) if isinstance(verdict, dict)]
    assert verdicts == ["correct", "incorrect", "correct", "correct", "incorrect"]


def test_a_tokenizer_s_documents_are_raw_and_rewritten_in_turn():
    raw, told, again, other = (tokenizer_text(index, seed=1, general_share=0.0) for index in (6, 7, 7, 9))
    assert raw == corpus_text(3, seed=1) and told == again != other
    *numbers, target = map(int, re.findall(r"\d+", told[0]))
    assert parse(told[1], style="r1").well_formed and told[1].startswith("<think>\nI try ")
    assert all(f"vs {target}," in line for line in told[1].splitlines()[1:-4]) and set(numbers) <= set(range(1, 21))
