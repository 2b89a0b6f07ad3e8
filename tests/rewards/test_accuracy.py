import pytest

from r1jax.rewards.accuracy import accuracy_reward, graded_by, last_number, last_number_reward
from r1jax.rewards.calls import make_entry
from r1jax.rewards.rubric import Rubric


class Equal:
    """Grades by equality, gives partial credit to 3."""

    def grade(self, answer, problem):
        return 0.99 if answer == "3" else float(answer == problem)


def score(reward, texts, **columns):
    count = len(texts)
    return reward([""] * count, texts, problem=["4"] * count, task=[Equal()] * count, **columns)


def test_a_grade_of_one_is_paid_and_a_failure_is_its_exception():
    grades, errors = [1.0, 0.99, 0.0, None, None], [None, None, None, "row 3: verifier gone", None]
    scores = accuracy_reward([""] * 5, [""] * 5, answer_grade=grades, grading_error=errors)
    assert scores[:3] == [1.0, 0.0, 0.0]
    assert [(type(score), str(score)) for score in scores[3:]] == [
        (RuntimeError, "row 3: verifier gone"),
        (RuntimeError, "no grade"),
    ]
    assert accuracy_reward([""], [""], answer_grade=[1.0]) == [1.0]


def test_by_hand_it_says_that_it_needs_the_grade():
    rubric = Rubric([make_entry(accuracy_reward)])
    with pytest.raises(
        ValueError, match="'accuracy_reward' needs answer_grade; there are answer, completions, prompts"
    ):
        rubric.score(["2+2"], ["4"], {"answer": ["4"]})


def test_scores_of_another_verifier_or_none_are_not_taken():
    columns = {
        "answer_grader": ["code", "math", None, "code", "code"],
        "extracted_answer": ["p", "4", "5", None, "q"],
        "answer_grade": [1.0, 1.0, 1.0, 0.0, None],
    }
    assert graded_by("code", columns, count=5) == [("p", 1.0), ("", None), ("", None), ("", None), ("q", None)]
    assert graded_by("code", {"answer": ["4"] * 2}, count=2) == [("", None)] * 2


def test_a_failing_verifier_gives_its_exception_and_spares_the_others():
    class Gone(Equal):
        def grade(self, answer, problem):
            if answer == "7":
                raise OSError("verifier gone")
            return super().grade(answer, problem)

    scores = last_number_reward([""] * 2, ["7", "4"], problem=["4"] * 2, task=[Gone()] * 2)
    assert isinstance(scores[0], OSError) and scores[1] == 1.0


def test_a_response_cut_off_at_the_limit_gets_nothing():
    assert score(last_number_reward, ["4"] * 2, stop_reason=["length", "stop"]) == [0.0, 1.0]


def test_last_number_reward_looks_everywhere():
    assert score(last_number_reward, ["I say 4", "4 or 5", "none", "3"]) == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("is -4.", "-4"),
        ("3-7=-4", "-4"),
        ("7-3", "3"),
        ("1,200.50 in all", "1200.50"),
        ("(2)-3", "3"),
        ("x1", "1"),
        ("", None),
    ],
)
def test_last_number(text, expected):
    assert last_number(text) == expected
