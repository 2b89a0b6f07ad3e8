"""The pair_sum task: well-posed, random access, disjoint splits, grading and canonical answers."""

import itertools

import pytest

from r1jax.tasks.mini.pair_sum import PairSum

TASK = PairSum()


def test_problem_is_well_posed():
    for index in range(200):
        problem = TASK.problem(index, split="train")
        numbers, target = problem.columns["numbers"], problem.columns["target"]
        fitting = [pair for pair in itertools.combinations(numbers, 2) if sum(pair) == target]
        assert len(set(numbers)) == 4 and all(1 <= number <= 20 for number in numbers)
        assert len(fitting) == 1
        assert problem.answer == "{}+{}".format(*sorted(fitting[0]))
        assert problem.messages[0]["content"] == "Which two of {}, {}, {}, {} make {}".format(*numbers, target)
        assert problem.columns["task"] == "pair_sum"


def test_problem_is_random_access_and_deterministic():
    assert TASK.problem(7, split="heldout") == PairSum().problem(7, split="heldout")
    assert TASK.problem(7, split="heldout") != TASK.problem(8, split="heldout")
    assert TASK.problem(7, split="heldout") != TASK.problem(7, split="train")


def test_splits_share_no_set_of_numbers_and_heldout_is_large():
    sets = {
        split: {frozenset(TASK.problem(index, split=split).columns["numbers"]) for index in range(1500)}
        for split in ("train", "heldout")
    }
    assert not sets["train"] & sets["heldout"]
    assert len({TASK.problem(index, split="heldout").messages[0]["content"] for index in range(512)}) >= 500


@pytest.mark.parametrize(
    "answer", ["27 + 44", "44 + 27", " 27, 44 ", "27 and 44", "44 和 27", "27 + 44 = 71", "27+44."]
)
def test_grade_takes_the_pair_in_any_form(answer):
    problem = PairSum().problem(0, split="train")
    problem = type(problem)(messages=problem.messages, answer="27+44", columns=problem.columns)
    assert TASK.grade(answer, problem) == 1.0
    assert TASK.canonical(answer) == "27+44"


@pytest.mark.parametrize("answer", [None, "", "27", "27 + 45", "27 + 44 + 0", "71", "yes", "27 44", "27 + 44 " * 500])
def test_grade_refuses_the_rest(answer):
    problem = PairSum().problem(0, split="train")
    problem = type(problem)(messages=problem.messages, answer="27+44", columns=problem.columns)
    assert TASK.grade(answer, problem) == 0.0


def test_canonical_keeps_other_text():
    assert TASK.canonical("  no   idea ") == "no idea"


def test_unknown_split_and_negative_index_are_refused():
    with pytest.raises(ValueError, match="split 'test'"):
        TASK.problem(0, split="test")
    with pytest.raises(ValueError, match="index -1"):
        TASK.problem(-1, split="train")
