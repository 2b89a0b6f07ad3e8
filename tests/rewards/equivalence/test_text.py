import pytest

from r1jax.rewards.equivalence.text import MAX_CHARS, UnreadableError, is_enclosed, normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"\frac{1}2", r"\frac{1}{2}"),
        (r"\sqrt2", r"\sqrt{2}"),
        ("x²", "x^{2}"),
        ("5²", "5^{2}"),
        ("x^10", "x^{10}"),
        (r"a_1", "a_{1}"),
        ("０．５", "0.5"),
        (r"$\left( 1, 2 \right).$", "( 1, 2 )"),
        (r"**73**", "73"),
        (r"\$5", "«USD»5"),
        ("$5", "«USD»5"),
        ("$5$", "5"),
        (r"5\text{ cm}", "5«cm»"),
        (r"5\text{m}", "5«m»"),
        (r"\text{B}", "B"),
        (r"\mathrm{e}", "e"),
        (r"1\text{ and }2", "1 and 2"),
        (r"\{1\}", "⦃1⦄"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "⟦1¦2¶3¦4⟧"),
        (r"0.\overline{3}", r"(\frac{3}{9})"),
        (r"30^\circ", "30°"),
        (r"x \le 3", "x ≤ 3"),
        (r"The answer is 4", "4"),
        (r"1,\!234", "1,234"),
    ],
)
def test_normalise(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize("text", ["1" * (MAX_CHARS + 1), "(" * 41, "{", r"\text{a"])
def test_unreadable(text):
    with pytest.raises(UnreadableError):
        normalise(text)


def test_is_enclosed():
    assert is_enclosed("(1,(2))") and is_enclosed("[1,2)")
    assert not is_enclosed("(1)(2)") and not is_enclosed("1") and not is_enclosed("(1")
