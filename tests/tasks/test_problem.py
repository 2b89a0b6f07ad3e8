import subprocess
import sys

import pytest

from r1jax.tasks.problem import canonical_answer, check_index, recorded_splits, split_of, stable_hash


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (" 7 ", "7"),
        ("+07", "7"),
        ("7.0", "7"),
        ("7.", "7"),
        ("-0.50", "-0.5"),
        ("-0", "0"),
        (".5", "0.5"),
        ("$1,200.50$", "1200.5"),
        ("1,23", "1,23"),
        ("1e3", "1e3"),
        ("two  words\n", "two words"),
        (".", ""),
        ("", ""),
        ("3/4", "3/4"),
        ("十二", "十二"),
    ],
)
def test_canonical_answer(answer, expected):
    assert canonical_answer(answer) == expected
    assert canonical_answer(expected) == expected


def test_stable_hash_is_the_same_in_every_process():
    code = "from r1jax.tasks.problem import stable_hash; print(stable_hash('a', 1))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(printed) == stable_hash("a", 1) != stable_hash("a", 2)


def test_split_of_gives_the_stated_share():
    heldout = sum(split_of(str(number), heldout_fraction=0.2) == "heldout" for number in range(5000))
    assert 900 < heldout < 1100


def test_bad_splits_and_indices_are_named():
    with pytest.raises(ValueError, match="split 'test'"):
        check_index(0, "test")
    with pytest.raises(ValueError, match="index -1"):
        check_index(-1, "train")


def test_fractions_asked_for_are_recorded_by_space_inside_the_block_only():
    split_of("x", heldout_fraction=0.5, space="a")
    with recorded_splits() as found:
        split_of("x", heldout_fraction=0.1, space="a")
        split_of("y", heldout_fraction=0.1, space="a")
        split_of("x", heldout_fraction=0.2, space="b")
        assert split_of("x", heldout_fraction=0.3, space="b") == split_of("x", heldout_fraction=0.3)
    split_of("x", heldout_fraction=0.7, space="a")
    assert found == {"a": {0.1}, "b": {0.2, 0.3}, "problems": {0.3}}
