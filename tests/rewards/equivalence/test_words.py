import pytest

from r1jax.rewards.equivalence.words import is_product, key_of, same_letters, same_options


@pytest.mark.parametrize("run", ["ab", "abc", "xyz", "mgh", "wxyz", "dcba", "nRT", "a b c"])
def test_letters_that_are_multiplied(run):
    assert is_product(run)


@pytest.mark.parametrize(
    "run", ["cat", "dog", "HTT", "SAS", "IV", "iv", "DB", "no", "at", "xxy", "abC", "Aa", "XYZ", "why", "ma"]
)
def test_letters_in_an_order(run):
    assert not is_product(run)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Yes", "yes"), ("«Golden Gate»", "golden gate"), ("«the square»", "square"), ("DNE", "«does not exist»"), ("no solution", "∅"),
     ("无解", "∅"), ("充要条件", "充分必要"), ("seven", "7"), ("07:30", "7:30"), ("QuadrantIV", "第四象限"),
     ("周三", "Wednesday")],
)  # fmt: skip
def test_the_same_words(one, other):
    assert key_of(one) == key_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("xyz", "XYZ"), ("aabb", "AABB"), ("abC", "ABc"), ("5«mW»", "5«MW»"), ("«HTT»", "«htt»"), ("x-y", "xy")],
)
def test_case_and_signs_that_matter(one, other):
    assert key_of(one) != key_of(other)


def test_runs_of_letters():
    assert same_letters("mgh", "hgm") is same_letters("mgh", "m*g*h") is same_letters("2ab", "ab") is None
    assert same_letters("ma", "m*a") and not same_letters("cat", "act") and not same_letters("HTT", "T*H*T")


@pytest.mark.parametrize(
    ("run", "items", "is_same"),
    [("ABD", "ABD", True), ("ADE", "EAD", True), ("CBA", "ABC", False), ("BADC", "ABCD", False), ("ABD", "DBA", True),
     ("ABD", "AB", False), ("ACB", "BCA", False), ("EDACB", "EDACB", True), ("HTT", "HTT", True), ("HTT", "THT", False),
     ("①③", "①③", True), ("①③", "③①", True)],
)  # fmt: skip
def test_options_have_no_order_but_moves_have(run, items, is_same):
    assert same_options(run, None, "...", list(items)) is is_same
    assert same_options("...", list(run), items, None) is is_same
    assert same_options(run, None, items, None) is None
    assert same_options("...", list(run), "...", list(items)) in (is_same, None)


def test_some_of_more_options_have_no_order_as_a_run():
    assert same_options("EAD", None, "...", list("ADE")) and same_options("...", list("EAD"), "ADE", None)
    assert not same_options("...", list("EAD"), "...", list("ADE"))  # two lists: perhaps a sequence
