import pytest

from r1jax.rewards.format import format_reward, r1_format_reward

GOOD = "<think>a</think> <answer>4</answer>"


def test_good_and_bad_forms():
    texts = [GOOD, "<think></think><answer>4</answer>", GOOD + GOOD, "<answer>4</answer>", GOOD + " bye", ""]
    assert format_reward([""] * 6, texts, problem=[None] * 6) == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_r1_form():
    texts = ["<think>a</think>It is 4.", "<think></think>It is 4.", "<think>a</think>", "It is 4."]
    assert r1_format_reward([""] * 4, texts) == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("reward", [format_reward, r1_format_reward])
def test_a_response_cut_off_at_the_limit_gets_nothing(reward):
    assert reward(["", ""], [GOOD, GOOD], stop_reason=["stop", "length"]) == [1.0, 0.0]
