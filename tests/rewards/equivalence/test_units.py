from fractions import Fraction

import pytest

from r1jax.rewards.equivalence.units import split_unit


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
