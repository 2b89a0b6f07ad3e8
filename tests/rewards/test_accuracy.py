import pytest

from r1jax.rewards.accuracy import accuracy_reward, last_number, last_number_reward, r1_accuracy_reward


class Equal:
    """Grades by equality, gives partial credit to "close", and fails on "crash"."""

    def grade(self, answer, problem):
        if answer == "crash":
            raise OSError("verifier gone")
        return 0.99 if answer == "close" else float(answer == problem)


def score(reward, texts, **columns):
    count = len(texts)
    return reward([""] * count, texts, problem=["4"] * count, task=[Equal()] * count, **columns)


def test_only_the_answer_inside_the_tags_counts():
    texts = [
        "<think>a</think><answer>4</answer>",
        r"<answer> so \boxed{4} </answer>",
        "<answer>5</answer><answer>4</answer>",
        "<answer>4</answer><answer>5</answer>",
        "<answer>close</answer>",
        "<think>4</think><answer></answer>",
        r"\boxed{4}",
        "4",
        "",
    ]
    assert score(accuracy_reward, texts) == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_a_failing_verifier_gives_its_exception_and_spares_the_others():
    scores = score(accuracy_reward, ["<answer>crash</answer>", "<answer>4</answer>"])
    assert isinstance(scores[0], OSError) and scores[1] == 1.0


def test_a_response_cut_off_at_the_limit_gets_nothing():
    assert score(accuracy_reward, ["<answer>4</answer>"] * 2, stop_reason=["length", "stop"]) == [0.0, 1.0]


def test_r1_takes_the_summary():
    assert score(r1_accuracy_reward, [r"<think>5</think>It is \boxed{4}.", "a</think>4", r"<think>\boxed{4}"]) == [
        1.0,
        1.0,
        0.0,
    ]


def test_last_number_reward_looks_everywhere():
    assert score(last_number_reward, ["I say 4", "4 or 5", "none"]) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("is -4.", "-4"),
        ("3-7=-4", "-4"),
        ("7-3", "3"),
        ("1,200.50 in all", "1200.50"),
        ("(2)-3", "3"),
        ("x1", "1"),
        ("", None),
    ],
)
def test_last_number(text, expected):
    assert last_number(text) == expected
