import time

import pytest

from r1jax.rewards.language import (
    chinese_share,
    chinese_share_reward,
    consistency,
    count_languages,
    is_mixed,
    language_of,
)
from r1jax.tasks.problem import Problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two plus 二加三", (3, 2)),
        ("<think>二</think> <answer>4</answer>", (1, 0)),
        (r"so $\alpha + beta$ and \(cos x\) and \[sin\] 是 \frac{ab}{cd}", (1, 3)),
        ("use `print` ```python\nimport os\n``` 好", (1, 1)),
        ("x 等于 3a + b2", (2, 0)),
        ("naïve Straße", (0, 2)),
        ("等wait等", (2, 1)),
        ("123 + 4 = !", (0, 0)),
        ("unclosed ```code here", (0, 1)),
    ],
)
def test_count_languages(text, expected):
    counts = count_languages(text)
    assert (counts["zh"], counts["en"] + counts["other"]) == expected


def test_share_and_mixing():
    assert chinese_share("two 二三四") == 0.75
    assert chinese_share("only English words") == 0.0
    assert chinese_share("12 = 12") is None
    assert is_mixed("two 二三四")
    assert not is_mixed("only English words")
    assert not is_mixed("二三四")
    assert not is_mixed("12")
    assert not is_mixed("word " * 99 + "二")
    assert is_mixed("word " * 99 + "二", minimum_share=0.01)


def test_reward_does_not_apply_without_words():
    assert chinese_share_reward(["", ""], ["two 二", "3"]) == [0.5, None]


@pytest.mark.parametrize("piece", [r"\(", r"\[", "$$", "$", "`", "<a", r"\a{", "```"])
def test_no_text_takes_long(piece):
    start = time.process_time()
    count_languages(piece * 100_000)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is two plus two?", "en"),
        ("二加二等于几?", "zh"),
        ("求 $\\sin x$ 的导数", "zh"),
        ("Сколько будет два плюс два?", "other"),
        ("1 + 1 = ?", "en"),
        ("", "en"),
    ],
)
def test_language_of_the_question(question, expected):
    assert language_of(question) == expected


def test_consistency_is_the_share_of_words_in_the_language_of_the_question():
    question = "How many are there?"
    texts = [
        "<think>two plus two</think> 四",
        "<think>two 二加三</think> four",
        "<think>二</think> four",
        "one plus 二",
        "<think>12 + 3 = 15, \\frac{a}{b}</think>",
        "<think></think> words",
        "",
        "два плюс two",
    ]
    assert consistency([question] * 8, texts) == [1.0, 0.25, 0.0, 2 / 3, 1.0, 0.0, 0.0, 1 / 3]
    assert consistency(["二加二等于几?"] * 2, ["<think>two 二加三</think> four", "abc def"]) == [0.75, 0.0]


def test_the_target_is_that_of_the_problem_and_not_of_the_template():
    problem = Problem(({"role": "user", "content": "二加二等于几?"},), "4", {"task": "t"})
    prompt = "A conversation between User and Assistant. User: 二加二等于几? Assistant:"
    assert consistency([prompt], ["二加二"], problem=[problem]) == [1.0]
    assert consistency([prompt], ["二加二"]) == [0.0]
    assert consistency([prompt], ["二加二"], problem=[problem], language=["en"]) == [0.0]
    error = consistency([prompt], ["x"], language=["fr"])[0]
    assert isinstance(error, ValueError) and "'fr'" in str(error)
