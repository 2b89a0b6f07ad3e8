import time

import pytest

from r1jax.rewards.language import chinese_share, chinese_share_reward, count_words, is_mixed


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
def test_count_words(text, expected):
    assert count_words(text) == expected


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
    start = time.perf_counter()
    count_words(piece * 20_000)
    assert time.perf_counter() - start < 1.0
