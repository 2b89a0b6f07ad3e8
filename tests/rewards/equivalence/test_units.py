from fractions import Fraction

import pytest

from r1jax.rewards.equivalence.units import compound, known_unit, split_unit


@pytest.mark.parametrize(
    ("text", "value", "size"),
    [
        ("5«cm»", "5", Fraction(1, 100)),
        ("5 cm", "5", Fraction(1, 100)),
        ("5«cm»^{2}", "5", Fraction(1, 10_000)),
        ("5«square centimeters»", "5", Fraction(1, 10_000)),
        ("90«km/h»", "90", Fraction(1000, 3600)),
        ("60«miles per hour»", "60", Fraction("1609.344") / 3600),
        ("«USD»5", "5", 1),
        ("250«cents»", "250", Fraction(1, 100)),
        ("50%", "50", Fraction(1, 100)),
        ("20°", "20", 1),
        ("12«students»", "12", 1),
        ("5 m", "5", 1),
        ("5", "5", None),
        ("5m", "5m", None),
        ("2x", "2x", None),
        ("12«million»", "12«million»", None),
        ("12 or more", "12 or more", None),
        ("«USD»5«million»", "5«million»", 1),
        (r"\sin 30°", r"\sin 30°", None),
    ],
)
def test_split(text, value, size):
    found, unit = split_unit(text, is_gold=False)
    assert found == value and (unit.size if unit else None) == size


def test_a_single_letter_may_be_a_variable_in_a_reference():
    assert split_unit("5m", is_gold=True) == ("5m", None)
    value, unit = split_unit("5 m", is_gold=True)
    assert value == "5" and not unit.is_sure and split_unit("5 m", is_gold=False)[1].is_sure


def test_areas_are_no_lengths():
    one, other = (split_unit(text, is_gold=True)[1] for text in ("5«cm»", "5«cm^2»"))
    assert one.powers != other.powers and split_unit("1%", is_gold=True)[1].is_share


@pytest.mark.parametrize(
    ("one", "other", "ratio"),
    [("kPa", "Pa", 1000), ("mmol", "mol", Fraction(1, 1000)), ("μm", "m", Fraction(1, 10**6)), ("厘米", "cm", 1), ("kilowatts", "W", 1000),
     ("feet", "in", 12), ("mL", "L", Fraction(1, 1000)), ("MW", "mW", 10**9), ("小时", "minutes", 60), ("ohms", "kΩ", Fraction(1, 1000))],
)  # fmt: skip
def test_prefixes_and_names(one, other, ratio):
    first, second = known_unit(one), known_unit(other)
    assert first.powers == second.powers and first.size / second.size == ratio


@pytest.mark.parametrize("name", ["pm", "x", "kx", "kmin", "kilom", "MM"])
def test_what_is_no_unit(name):
    assert known_unit(name) is None


def test_derived_units_are_made_of_the_others():
    for one, other in (("J", "N*m"), ("V", "W/A"), ("Pa", "kg/m/s^{2}"), ("C", "A s"), ("L", "«cubic decimeters»")):
        sizes = [split_unit(f"5 {text}", is_gold=False)[1] for text in (one, other)]
        assert sizes[0] == sizes[1], one


@pytest.mark.parametrize(
    ("text", "unit"),
    [("5«ft»6«in»", "m"), ("5'6''", "m"), ("2«hours and»15«minutes»", "s"), ("1«小时»30«分钟»", "s"), ("30°15'", "°"),
     ("5«ft»", None), ("6«in»5«ft»", None), ("5«ft»6«s»", None), ("5«ft»6", None), ("5", None)],
)  # fmt: skip
def test_compound_quantities(text, unit):
    found = compound(text)
    assert found is None if unit is None else found[1] == known_unit(unit)
