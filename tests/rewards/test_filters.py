"""Each filter on a text that it drops, with its reason, and on the nearest one that it keeps."""

import dataclasses

import pytest

from r1jax.rewards import filters
from r1jax.text.sample import Sample

GOOD = Sample(
    messages=[{"role": "user", "content": "What is two and two?"}],
    text="<think>I add two and two, wait, that makes four. \n\n Yes.</think> <answer>4</answer>",
    token_ids=list(range(40)),
    answer="4",
    is_correct=True,
    rewards={"consistency": 0.9, "other": float("nan")},
)


def but(**changes):
    return dataclasses.replace(GOOD, **changes)


@pytest.mark.parametrize(
    ("name", "sample", "reason"),
    [
        ("finished", but(stop_reason="length"), "cut off"),
        ("correct", but(is_correct=False), "wrong answer"),
        ("correct", but(answer=None, is_correct=False), "no answer"),
        ("correct", but(is_correct=False, errors={"task_metric": "no sandbox"}), "verifier failed"),
        ("well_formed", but(text=GOOD.text + " so"), "ill-formed"),
        ("well_formed", but(style="r1", text="<think></think> 4"), "ill-formed"),
        ("not_repetitive", but(token_ids=list(range(25)) * 3), "repetition"),
        ("one_language", but(text="<think>I add 二 and 二, 等等</think> <answer>4</answer>"), "mixed languages"),
        ("one_language", but(text="I add two и два"), "mixed languages"),
        ("language_of_question", but(text="<think>二加二等于四</think> <answer>4</answer>"), "other language"),
        (
            "no_code_in_thought",
            but(text="<think>```python\n2 + 2\n```</think> <answer>4</answer>"),
            "code in the thought",
        ),
        ("short_paragraphs", but(text=f"<think>{'so ' * 700}</think> <answer>4</answer>"), "long paragraph"),
    ],
)
def test_what_is_dropped_and_why(name, sample, reason):
    assert getattr(filters, name)(sample) == reason
    assert getattr(filters, name)(GOOD) is None


def test_what_is_just_kept():
    assert filters.no_code_in_thought(but(text="<think>hm</think> <answer>```4```</answer>")) is None
    assert filters.short_paragraphs(but(text="<think>" + "so so so\n\n" * 700 + "</think>")) is None
    assert filters.not_repetitive(but(token_ids=[*range(100), *range(40)])) is None  # 21 of 121 windows: 0.174
    assert filters.not_repetitive(but(token_ids=[*range(100), *range(50)])) == "repetition"  # 31 of 131
    assert filters.one_language(but(text="and " * 20 + "的")) is None  # 1 of 21 words
    assert filters.one_language(but(text="and " * 19 + "的")) == "mixed languages"  # 1 of 20
    assert filters.one_language(but(text="<think>2 + 2 = 4</think>")) is None
    assert filters.language_of_question(but(text="2 + 2 = 4")) is None


def test_a_score_of_a_reward_is_asked_for():
    assert filters.at_least(GOOD, reward="consistency", minimum=0.9) is None
    assert filters.at_least(GOOD, reward="consistency", minimum=0.95) == "low consistency"
    assert filters.at_least(GOOD, reward="other", minimum=1.0) is None  # it does not apply
    assert filters.at_least(but(errors={"other": "x"}), reward="other", minimum=1.0) == "other failed"
    with pytest.raises(ValueError, match="no reward 'consistent'; there are consistency, other"):
        filters.at_least(GOOD, reward="consistent", minimum=1.0)


def test_the_language_of_the_question_is_that_of_the_problem_s_own_text_or_its_column():
    instruction = "Reason step by step, and put the final answer within the box that is asked for."
    asked = {"messages": [{"role": "user", "content": f"求和。 {instruction}"}], "problem_text": "求和。"}
    zh, en = "<think>二加二等于四</think> <answer>4</answer>", "<think>two and two</think> <answer>4</answer>"
    assert filters.language_of_question(but(text=zh, **asked)) is None
    assert filters.language_of_question(but(text=en, **asked)) == "other language"
    assert filters.language_of_question(but(text=en, columns={"language": "English"}, **asked)) is None
    for text in (zh, en):
        assert filters.language_of_question(but(text=text, **asked | {"problem_text": "$1+1$"})) is None
