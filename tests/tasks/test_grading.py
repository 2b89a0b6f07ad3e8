import pytest

from r1jax.tasks.grading import check_problem, grade_answer
from r1jax.tasks.types import GradingError, Problem


def problem(answer="", **columns):
    return Problem(({"role": "user", "content": "?"},), answer, {"task": "own", "row": "F, row 2", **columns})


def test_math_is_judged_as_the_reward_does():
    grades = [
        grade_answer("math", answer, problem("0.5")) for answer in (r"\frac{1}{2}", r"so \boxed{1/2}", "2", "x<answer>")
    ]
    assert grades == [1.0, 1.0, 0.0, 0.0]


def test_instructions_are_judged_as_the_reward_does():
    columns = {"instruction_id_list": ["startend:quotation"], "kwargs": [{}]}
    assert [grade_answer("instructions", answer, problem(**columns)) for answer in ('"a"', "a")] == [1.0, 0.0]


def test_what_the_verifier_cannot_judge_is_an_error():
    with pytest.raises(GradingError, match="F, row 2: "):
        grade_answer("math", "1", problem(""))
    with pytest.raises(GradingError, match="F, row 2: instruction 'new' has no checker"):
        grade_answer("instructions", "1", problem(instruction_id_list=["new"], kwargs=[{}]))
    with pytest.raises(GradingError, match="F, row 2: "):
        grade_answer("instructions", "1", problem())
    with pytest.raises(ValueError, match="no reward for answers of kind 'poem'"):
        grade_answer("poem", "1", problem())


def test_references_are_checked_without_an_answer():
    check_problem("math", problem(r"\frac{1}{2}"))
    check_problem("instructions", problem())
    check_problem("code", problem(tests={"stdin": [{"input": "", "output": "1"}]}))
    with pytest.raises(ValueError, match="F, row 2: "):
        check_problem("math", problem(" "))
    with pytest.raises(ValueError, match="F, row 2: tests: needs one of stdin, calls, asserts"):
        check_problem("code", problem(tests={"function": "f"}))


def test_choices_are_judged_as_the_reward_does():
    right = problem("B", choices=["one", "two"])
    assert [grade_answer("choice", answer, right) for answer in ("B.", r"\text{(B)}", "two", "A", "both")] == [
        1,
        1,
        1,
        0,
        0,
    ]
    check_problem("choice", right)
    with pytest.raises(ValueError, match="F, row 2: reference answer 'two' is no letter"):
        check_problem("choice", problem("two"))
