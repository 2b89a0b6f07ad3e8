"""Readers of Chinese numbers, dates and times, formulas, bases, labelled parts."""

import pytest

from r1jax.rewards.equivalence.answer import equivalent
from r1jax.rewards.equivalence.notations import CHINESE_NUMBER, in_base, in_digits, moment, parts, reaction


@pytest.mark.parametrize(
    ("text", "number"),
    [("二十四", "24"), ("一百零五", "105"), ("负五", "-5"), ("两", "2"), ("三分之二", r"\frac{2}{3}"), ("百分之三十", "30%"),
     ("三千零六十", "3060"), ("十万八千", "108000"), ("一亿二千万", "120000000"), ("三点五", "3.5"), ("八折", "8折"), ("一百五", "一百五"),
     ("三角形", "三角形"), ("第三个", "第三个"), ("一次函数", "一次函数"), ("三点", "三点"), ("二三", "二三"), ("三千五", "三千五")],
)  # fmt: skip
def test_chinese_numbers_where_they_are_no_part_of_a_word(text, number):
    assert CHINESE_NUMBER.sub(in_digits, text) == number


@pytest.mark.parametrize(
    ("text", "other"),
    [("6 pm", "6:00 P.M."), ("3:45 p.m.", "15:45"), ("下午2时30分", "14:30"), ("noon", "12:00 p.m."), ("midnight", "12 am"),
     ("March 15", "the 15th of March"), ("July 4, 1776", "4 July 1776"), ("2008年8月8日", "2008-08-08"), ("9:05 am", "09:05")],
)  # fmt: skip
def test_dates_and_times(text, other):
    assert moment(text) == moment(other) is not None
    assert equivalent(text, other) and equivalent(other, text)


@pytest.mark.parametrize("text", ["3:45", "14时30分", "May", "15", "March", "13:75", "2.5 am", r"\frac{1}{2}"])
def test_what_is_no_moment(text):
    assert moment(text) is None


def test_formulas():
    assert (
        reaction("2H_{2} + O_{2} \\to 2H_{2}O") == reaction("{O2+2H2 \\to 2H2O}") == [["2H2", "O2"], ["\\to"], ["2H2O"]]
    )
    assert reaction("SO4^{2-}") == [["SO4^2-"]] and reaction("Na+") == reaction("Na^+") != reaction("Na^-")
    assert reaction("N_{A}") is reaction("x^{2}+1") is None and reaction("CO") != reaction("Co")


def test_bases():
    assert (
        in_base("1011_{2}")
        == in_base("(1011)_{«two»}")
        == in_base("1011(2)")
        == in_base("1011 base 2")
        == ("1011", "2")
    )
    assert in_base("5(3)") is in_base("19_{8}") is in_base("12") is None


def test_parts():
    assert parts("(1) 4; (2) 9", []) == {"1": "4", "2": "9"} == parts("(2) 9, (1) 4", [])
    assert parts("", ["maximum 5", "minimum -3"]) == parts("", ["\\max=5", "«min is»-3"]) == {"max": "5", "min": "-3"}
    assert parts("(1) 4; (1) 9", []) is parts("(1) 4", []) is parts("4, 9", ["4", "9"]) is None
