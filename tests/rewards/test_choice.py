import pytest

from r1jax.rewards.choice import accuracy, read_letter


@pytest.mark.parametrize(
    "text",
    ["B", "b", "(B)", "(b)", "B.", "B)", "[B]", r"\text{B}", r"\text{(B)}", r"\textbf{(B)}", "**B**", "$B$", "Option B", "option (B)",
     "The answer is B", "The correct answer is: B", "Answer: (B)", "The correct option is B.", "B. Paris", "(B) Paris", "B: Paris",
     r"\textbf{(B)}\ 42", "B) A very long text", "（B）", "Ｂ"],
)  # fmt: skip
def test_one_letter_is_read(text):
    assert read_letter(text) == "B"


@pytest.mark.parametrize(
    "text",
    ["", "AB", "A B", "A, B", "A and B", "A or B", "B or C", "A/B", "(A) 1 (B) 2", "(A)(B)", "ABCD", "B?!", "1", "Be careful", "I think B",
     "B. Paris or C. Rome", "(B) or (C)", "B. A or C", "not B", "It could be B", "All of the above", "Paris", "answer", "B" * 600, "B\x00",
     "B: 1, C: 2", "A. B. C.", "É"],
)  # fmt: skip
def test_several_or_none_lose(text):
    assert read_letter(text) is None


def test_the_reward():
    texts = [
        r"\boxed{B}",
        "<answer>B. 42</answer>",
        r"\boxed{C}",
        "B",
        "<think>B</think>",
        r"\boxed{A or B}",
        r"\boxed{B}",
    ]
    reasons = ["stop"] * 6 + ["length"]
    assert accuracy([""] * 7, texts, ["B", "(B)", "B", "B", "B", "B", "B"], stop_reason=reasons) == [
        1,
        1,
        0,
        0,
        0,
        0,
        0,
    ]


def test_the_text_of_an_option_counts_where_the_options_are_known():
    texts = [
        r"\boxed{Paris}",
        r"\boxed{\text{paris}.}",
        r"\boxed{Rome}",
        r"\boxed{Oslo}",
        r"\boxed{Bern}",
        r"\boxed{B}",
    ]
    choices = [["Rome", "Paris", "Bern", "Bern"]] * 6
    assert accuracy([""] * 6, texts, ["B", "B", "B", "B", "C", "B"], choices) == [1, 1, 0, 0, 0, 1]


def test_a_bad_reference_is_an_error_of_its_row():
    scores = accuracy([""] * 4, [r"\boxed{B}"] * 4, ["B", "", 2, "E"], [["a", "b"]] * 4)
    assert scores[0] == 1.0
    assert all(
        isinstance(error, ValueError) and f"row {row}" in str(error) for row, error in enumerate(scores[1:], start=1)
    )


def test_an_option_of_a_long_text_is_not_any_long_text():
    texts = [rf"\boxed{{{text}}}" for text in ("x" * 600, ".", "$$")]
    assert accuracy([""] * 3, texts, ["B"] * 3, [["Rome", "long " * 200]] * 3) == [0.0, 0.0, 0.0]
