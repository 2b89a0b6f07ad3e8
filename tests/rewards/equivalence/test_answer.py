"""What the corpus does not show: errors and the ways between in-process and worker."""

import contextlib
import time

import pytest

from r1jax.rewards.equivalence.answer import equivalent, verify_pair
from r1jax.rewards.equivalence.reals import reals_of, same_reals
from r1jax.rewards.equivalence.second_opinion import math_verify
from r1jax.rewards.equivalence.structure import items_of, matrix_of, sequence_of, sides_of
from r1jax.rewards.equivalence.value import UndecidedError


@pytest.mark.parametrize("gold", ["", " ", "$$", r"\text{}", "."])
def test_an_empty_reference_is_an_error_and_never_right(gold):
    for answer in ("", gold, "1"):
        with pytest.raises(ValueError, match="is empty"):
            equivalent(gold, answer)


def test_undecided_without_a_worker():
    with pytest.raises(UndecidedError):
        equivalent(r"2\sqrt3", r"\sqrt{12}")
    with pytest.raises(UndecidedError):
        equivalent(r"\sum_{k=1}^{n} a_k b_k", r"\sum_{k=1}^{n} b_k a_k")
    assert equivalent(r"2\sqrt3", r"\sqrt{12}", deep=True)
    assert not equivalent("7", "seven or eight")


def test_the_worker_says_what_is_wrong_with_a_reference():
    assert verify_pair([r"2\sqrt3", r"\sqrt{12}"]) is True
    assert "is empty" in verify_pair(["", "1"])


def test_math_verify_is_asked_only_about_the_same_letters_and_numbers():
    assert math_verify(r"\sum_{k=1}^{n} a_k b_k", r"\sum_{k=1}^{n} b_k a_k")
    assert not math_verify("A", "a") and not math_verify("x'", "x") and not math_verify("1/2004!", "1/2006!")


def test_structure():
    assert items_of("1, 2 and 3") == ["1", "2", "3"] and items_of("⦃(1,2),3⦄") == ["(1,2)", "3"]
    assert items_of("1±2") == ["1+2", "1-2"] and items_of("(1,2)") is None
    assert items_of("(x,y)=(1,2)") == ["x=1", "y=2"]
    assert sides_of("1<x≤2") == (["1", "x", "2"], ["<", "≤"]) and sides_of("≈3") == (["3"], [])
    assert sequence_of("[1,2)") == ("[)", ["1", "2"]) and sequence_of("(1,2)(3,4)") is None
    assert matrix_of("(⟦1¦2¶3¦4⟧)") == [["1", "2"], ["3", "4"]]


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("1<x≤2", "2≥x>1", True),
        ("x>1 and x<3", "(1,3)", True),
        ("x≠2", "(-∞,2)∪(2,∞)", True),
        ("(1,2)∪⦃3⦄", "⦃3⦄∪(1,2)", True),
        ("(0,9)∪(9,36)", r"(0,36)\setminus⦃9⦄", True),
        ("0<x<36,x≠9", "(0,9)∪(9,36)", True),
        ("x<1,x>3", "(-∞,1)∪(3,∞)", True),
        ("(0,2)∪(1,3)", "(0,3)", True),
        ("(0,2)∩(1,3)", "(1,2)", True),
        ("[(-∞,1)∪(2,∞)]", "ℝ-[1,2]", None),
        ("|x-1|<2", "(-1,3)", True),
        ("|x|≥2", "(-∞,-2]∪[2,∞)", True),
        ("(a,a+1)", "a<x<a+1", True),
        ("(a,b)", "[a,b]", False),
        ("(0,2)∪(2,3)", "(0,3)", False),
        ("(1,1)", "(2,2)", False),
    ],
)
def test_sets_of_reals(one, other, is_same):
    sets = [reals_of(text) for text in (one, other)]
    found = same_reals(sets[0][1], sets[1][1], deep=False) if all(sets) else None
    assert found is is_same


def test_what_is_no_set_of_reals():
    assert reals_of("x<1 or y>3") is reals_of("x+y<1") is reals_of("5") is None
    assert not same_reals(reals_of(",".join(f"x>{n}" for n in range(50)))[1], reals_of("x>0")[1], deep=False)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("3:30\\text{ p.m.}", "3:30 PM"),
        ("6 PM", "6:00 p.m."),
        ("8500000", r"\$8.5\text{ million}"),
        ("8.5\\text{ million}", "8500000"),
        ("12 million people", "12000000"),
        ("1.2345678 million", "1234567.8"),
        ("30", "30 mph"),
        ("30 mph", r"30\text{ miles per hour}"),
        ("12", "12 per cent"),
        ("3", r"x \equiv 3 \pmod 7"),
        ("1, 2", "x_1 = 2, x_2 = 1"),
        (r"\emptyset", "no solution"),
        (r"\text{well-known}", "well known"),
        ("0.00005", "5e-05"),
        ("2024-01-01", "2024-01-01"),
    ],
)
def test_right(gold, answer):
    assert equivalent(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("x-y", "xy"),
        ("abc", "a-b-c"),
        ("12", "12 sevenths"),
        ("12", r"12\text{ thousandths}"),
        ("12", "12 negative"),
        ("12", "12 million"),
        ("5", "0.005 million"),
        ("5001", "5 thousand 1"),
        ("5", "not = 5"),
        ("5", "wrong = 5"),
        ("1", "0,001"),
        ("2024-01-01", "2022"),
        ("2022", "2024-01-01"),
        ("01/02", "0.5"),
        ("30 mph", "30 km/h"),
        ("3:30 AM", "3:30 PM"),
        ("6 PM", "6"),
        (r"x \equiv 3 \pmod 7", r"x \equiv 4 \pmod 7"),
        ("1, 2", "x_1 = 1, x_2 = 3"),
        ("1, 2", "x = 1, y = 2"),
        ("x_1 = 1, x_2 = 2", "x_1 = 2, x_2 = 1"),
        ("0", "no solution"),
    ],
)
def test_wrong(gold, answer):
    assert not equivalent(gold, answer)


@pytest.mark.parametrize(
    "piece",
    ["k,k∈ℤ,", "1 (1)", "x<1 or ", "(1,2)∪", "(1,2)\\setminus", "x∈", "x|", "5 ft ", "5 m/", "(A) ", "A, ", "\\hat{i}+", "=1", "1≈", "2^2 ",
     "½", "²", "①", "或", "abcd", "HT", "where k is an integer ", "all real numbers except ", "«", "\\text{5 a}", "C_5^2", "1 to ", "[[1,"],
)  # fmt: skip
def test_no_text_takes_long(piece):
    text = (piece * 1000)[:999]
    start = time.process_time()
    for gold, answer in (
        ("2\\sqrt{3}, k\\in\\mathbb{Z}", text),
        (text, "7"),
        (text, text[:-1] + "7"),
        ("(1,2)∪(3,4)", text),
    ):
        with contextlib.suppress(UndecidedError, ValueError):
            equivalent(gold, answer)
    assert time.process_time() - start < 2.0
