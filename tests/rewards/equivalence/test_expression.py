from fractions import Fraction

import pytest

from r1jax.rewards.equivalence.expression import has_i, parse_expression, symbols
from r1jax.rewards.equivalence.text import UnreadableError, normalise
from r1jax.rewards.equivalence.value import exact_value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1/2", Fraction(1, 2)),
        ("2^3^2", 512),
        ("-2^2", -4),
        ("(-2)^2", 4),
        ("2(3)(4)", 24),
        (r"2\frac{1}{3}", Fraction(7, 3)),
        (r"-2\frac{1}{3}", Fraction(-7, 3)),
        ("2 1/3", Fraction(7, 3)),
        (r"2\cdot\frac{1}{3}", Fraction(2, 3)),
        ("1.5e-3", Fraction(3, 2000)),
        ("1,234.5", Fraction(2469, 2)),
        ("4!/3!", 4),
        (r"\binom{5}{2}", 10),
        ("|-3|", 3),
        (r"\sqrt{\frac{9}{4}}", Fraction(3, 2)),
        (r"\sqrt[3]{-8}", -2),
        ("4^{1/2}", 2),
        (r"\lfloor -2.5 \rfloor", -3),
        ("50%", Fraction(1, 2)),
        ("2^{-3}", Fraction(1, 8)),
        ("1/0", None),
        ("0^0", None),
        (r"\sqrt{2}", None),
        ("x", None),
    ],
)
def test_exact_values(text, expected):
    assert exact_value(parse_expression(normalise(text))) == expected


@pytest.mark.parametrize(
    "text",
    ["", "1 2", "x2", "x 2", "1/ab", r"\sin π/4", r"\sin(x)^2", "1+", "+", ")(", "1..2", "1_2", "words", r"\int x", r"\sum k", r"\lim x",
     r"\gcd(2,4)", r"\foo", "9!!", "∞", "x=1", "1,2", r"2\frac{4}{3}", "9" * 401, "\\", "&", r"\frac{1}", "|1", "f(x", "a ? b"],
)  # fmt: skip
def test_two_meanings_or_none_are_refused(text):
    with pytest.raises(UnreadableError):
        parse_expression(text)


def test_names_keep_their_case_and_index():
    assert symbols(parse_expression("a_{1}A + a' + \\alpha x")) == {"a_1", "A", "a'", "\\alpha", "x"}
    assert (
        symbols(parse_expression("e^{iπ}")) == frozenset()
        and has_i(parse_expression("e^{iπ}"))
        and not has_i(parse_expression("e^{x}"))
    )


@pytest.mark.parametrize("text", ["9^{9^{9^{9}}}", "100000!", "(3000!)^{9}", r"\binom{9999}{5000}", "2^{99999}"])
def test_large_numbers_are_refused_at_once(text):
    with pytest.raises(UnreadableError, match="too large"):
        exact_value(parse_expression(text))
