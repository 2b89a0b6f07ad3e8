import itertools
import random
import time
from types import SimpleNamespace

import pytest

from r1jax.evals import votes
from r1jax.evals.evaluate import samples_of
from r1jax.evals.statistics import cons_at_k
from r1jax.evals.votes import vote_classes
from r1jax.rewards import math
from r1jax.tasks.problem import Problem, canonical_answer

PROBLEM = Problem(({"role": "user", "content": "?"},), "1/2", {"task": "t"})


class Task:
    name = "t"

    def __init__(self, grader="math"):
        self.grader = grader

    def canonical(self, answer):
        return canonical_answer(answer)


def classes(*answers, grader="math", seconds=20.0):
    return vote_classes(answers, Task(grader), PROBLEM, seconds=seconds)


def test_four_spellings_of_a_half_beat_two_equal_wrong_answers():
    answers = ["1/2", r"\frac{1}{2}", "0.5", r"\dfrac12", "2", "2"]
    found, undecided = classes(*answers)
    assert len(set(found)) == 2 and len(set(found[:4])) == 1 and undecided == 0
    assert cons_at_k(found, [True] * 4 + [False] * 2, 6) == 1.0
    assert cons_at_k(answers, [True] * 4 + [False] * 2, 6) == 0.0  # by spelling


def test_no_answer_stays_none_and_other_answers_apart():
    found, _ = classes(None, "x = 5", "5", "5.1", "y = 5", None)
    assert found[0] is None and found[5] is None
    assert found[1] == found[2] and found[3] not in (found[2], found[4])
    assert classes() == ((), 0) and classes(None, None) == ((None, None), 0)


def test_answers_with_irrational_numbers():
    found, undecided = classes(r"\sqrt{8}", r"2\sqrt{2}", r"\frac{4}{\sqrt 2}", "2.83", r"\sqrt{8}")
    assert found[0] == found[1] == found[2] == found[4] == r"\sqrt{8}" != found[3] and undecided == 0


def test_each_must_be_right_with_the_other_as_the_reference():
    """A reference with a number base may be given without it, but not the other way round."""
    binary, plain = "1010_2", "1010"
    assert math.grade_math([plain, binary], [binary, plain]) == [1.0, 0.0]
    assert math.same_answers([(binary, plain), (plain, binary), ("", "5"), ("5", "")]) == [False] * 4


def test_order_does_not_matter():
    """Equality is not transitive: 50% is 50 and 0.5."""
    answers = ["50", "0.5", "50%", "50%", "1/2", "7"]
    sizes = set()
    for order in itertools.islice(itertools.permutations(answers), 0, None, 7):
        found, _ = classes(*order)
        by_answer = dict(zip(order, found, strict=True))
        sizes.add(tuple(sorted(by_answer.items())))
    assert len(sizes) == 1
    assert dict(next(iter(sizes)))["50%"] == dict(next(iter(sizes)))["0.5"] != "7"


@pytest.mark.parametrize("grader", ["choice", "code", "instructions", None])
def test_other_verifiers_compare_by_canonical_form(grader):
    assert classes("1/2", "0.5", "0.50", grader=grader)[0] == ("1/2", "0.5", "0.5")


def test_comparisons_that_fail_or_come_too_late_are_counted(monkeypatch):
    monkeypatch.setattr(votes, "same_answers", lambda pairs: [TimeoutError("late")] * len(pairs))
    assert classes("11/2", "5.5", "23/4") == (("11/2", "5.5", "23/4"), 3)
    monkeypatch.setattr(votes, "same_answers", lambda pairs: time.sleep(0.02) or [False] * len(pairs))
    found, undecided = classes("13/2", "6.5", "27/4", "31/4", seconds=0.01)
    assert len(set(found)) == 4 and undecided == 2 + 3  # the first comparison was begun in time


def test_many_answers_take_little_time():
    rng = random.Random(0)
    answers = [rf"\frac{{{rng.randrange(99)}}}{{{rng.randrange(1, 99)}}}" for _ in range(64)]
    begin = time.process_time()
    found, undecided = classes(*answers)
    assert time.process_time() - begin < 5 and undecided == 0
    assert len(set(found)) > 40


def test_an_evaluation_votes_by_class():
    completion = SimpleNamespace(token_ids=[1, 2], stop_reason="stop")
    rollouts = [
        SimpleNamespace(answer=answer, is_correct=answer != "2", text="", completion=completion)
        for answer in ["1/2", r"\frac12", "0.5", "2", "2"]
    ]
    samples = samples_of(SimpleNamespace(rollouts=rollouts, problem=PROBLEM), Task())
    assert len(set(samples.answers)) == 2 and cons_at_k(samples.answers, samples.correct, 5) == 1.0
