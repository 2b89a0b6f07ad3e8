from fractions import Fraction

import pytest

from r1jax.rewards.countdown import accuracy, solves


@pytest.mark.parametrize(
    "text",
    ["10*(8-5)-6", "10 * (8 - 5) - 6", "10×(8−5)−6", r"10 \times (8-5) - 6", "１０*(8-5)-6", "10*(8-5)-6 = 24", "(10*(8-5))-6",
     "10*(8-5)-6=24.0", r"\left(10\cdot(8-5)\right)-6", "$10*(8-5)-6$", r"10\times[8-5]-6", "((10)*(8-5)-6)"],
)  # fmt: skip
def test_right(text):
    assert solves(text, [8, 5, 10, 6], 24)


@pytest.mark.parametrize(
    "text",
    ["", "24", "10*(8-5)-6+0", "10*(8-5)-6*1", "10+8+6", "10*8-5-6", "10*(8-5)-6 = 25", "24 = 10*(8-5)-6 = 24", "10*(8-5)-",
     "(10*(8-5)-6", "10*(8-5)-6)", "10(8-5)-6", "ten*(8-5)-6", "10*(8-5)-6 or 24", "10*(8-5)-6, 24", "10*(8-5)--6", "+10*(8-5)-6",
     "10*(8-5)-6\n24", "10*(8-5)-6 # 24", "1_0*(8-5)-6", "0xA*(8-5)-6", "1e1*(8-5)-6", "10.0*(8-5)-6", "10*(8-5)-6.0",
     "__import__('os')", "lambda: 24", "[24]", "24 if 1 else 0", "(24)", "9" * 500, "(" * 300, "10*" * 130, "1" + "+1" * 150,
     "(" * 90 + "8" + ")" * 90, "\x00", "10*(8-5)-6;", "8**5", "10//8", "10%8", "10<<8", "~8", "8j", "08*5", "=", "=24",
     "10*(8-5)-6=1e999999999", "10*(8-5)-6=24e0", "10*(8-5)-6=2_4", r"\frac{" * 60],
)  # fmt: skip
def test_wrong_and_hostile(text):
    assert not solves(text, [8, 5, 10, 6], 24)


def test_holes_of_peers():
    """peers-torch.md section 5: TinyZero's and nano-aha's regex and eval."""
    assert not solves("1.5*4", [1, 5, 4], 6)
    assert not solves("7//2+1", [7, 2, 1], 4)
    assert not solves("44**19**7", [44, 19, 7], 1)
    assert not solves(r"2\frac{1}{3}", [2, 1, 3], Fraction(7, 3)) and not solves("2 1/3", [2, 1, 3], Fraction(7, 3))


def test_fractions_are_exact_and_division_by_zero_loses():
    assert solves("8/(3-8/3)", [8, 3, 8, 3], 24)
    assert solves(r"\frac{8}{3-\frac{8}{3}}", [8, 3, 8, 3], 24)
    assert solves(r"\frac{6}{3}+1", [6, 3, 1], 3)
    assert solves("1/3", [1, 3], Fraction(1, 3)) and not solves("1/3", [1, 3], Fraction(333333333333, 10**12))
    assert not solves("1/(2-2)", [1, 2, 2], 0)


def test_options():
    assert not solves("5-3", [5, 3, 9], 2) and not solves("5-3+5-5", [5, 3], 2)
    assert solves("-3+5", [5, 3], 2, allow_negation=True) and not solves("-3+5", [5, 3], 2)


def test_the_reward_reads_the_answer_part():
    texts = [
        "<answer>2+3</answer>",
        r"\boxed{3+2}",
        "2+3",
        "<think>2+3</think>",
        "<answer>5</answer>",
        "<answer>2+3</answer>",
    ]
    reasons = ["stop"] * 5 + ["length"]
    assert accuracy([""] * 6, texts, [[2, 3]] * 6, [5, "5", 5, 5, 5, 5], reasons) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("numbers", "target"), [([1.5], 1), (["a"], 1), ([True], 1), ([-1], 1), (None, 1), ([1], None)]
)
def test_bad_columns_are_errors_of_their_row(numbers, target):
    scores = accuracy([""] * 2, [r"\boxed{1}"] * 2, [numbers, [1]], [target, 1])
    assert isinstance(scores[0], ValueError) and "countdown: numbers" in str(scores[0]) and scores[1] == 1.0
