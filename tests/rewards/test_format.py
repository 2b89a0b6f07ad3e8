import pytest

from r1jax.rewards.format import r1, r1_zero

GOOD = "<think>a</think> <answer>4</answer>"


def test_r1_zeros_form():
    texts = [GOOD, "<think></think><answer>4</answer>", GOOD + GOOD, "<answer>4</answer>", GOOD + " bye", ""]
    assert r1_zero([""] * 6, texts, problem=[None] * 6) == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_r1s_form_with_and_without_the_tag_that_the_prompt_writes():
    texts = ["<think>a</think>It is 4.", "<think></think>It is 4.", "<think>a</think>", "It is 4."]
    assert r1([""] * 4, texts) == [1.0, 0.0, 0.0, 0.0]
    texts = [
        "a\n</think>\n\nIt is 4.",
        "\n\n</think>\n\nIt is 4.",
        "a</think>",
        "a</think>b</think>c",
        "a<think>b</think>c",
    ]
    assert r1([""] * 5, texts) == [1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("reward", [r1_zero, r1])
def test_a_response_cut_off_at_the_limit_gets_nothing(reward):
    assert reward(["", ""], [GOOD, GOOD], stop_reason=["stop", "length"]) == [1.0, 0.0]
