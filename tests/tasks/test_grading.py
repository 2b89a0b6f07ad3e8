import pytest

from r1jax.rewards.math import accuracy
from r1jax.rewards.sandbox import SandboxUnavailable, probe
from r1jax.tasks.grading import check_problem, grade_answer
from r1jax.tasks.problem import GradingError, Problem
from r1jax.text.response import final_answer


def problem(answer="", **columns):
    return Problem(({"role": "user", "content": "?"},), answer, {"task": "own", "row": "F, row 2", **columns})


def test_math_is_judged_as_the_reward_does():
    grades = [
        grade_answer("math", answer, problem("0.5")) for answer in (r"\frac{1}{2}", r"so \boxed{1/2}", "2", "x<answer>")
    ]
    assert grades == [1.0, 1.0, 0.0, 0.0]


BOXES = [
    (rf"\boxed{{{'+'.join(['1'] * 120)}}}", "120", 1.0),
    (r"\boxed{1} and \boxed{2}", "1, 2", 1.0),
    (r"\boxed{1} and \boxed{2}", "2", 0.0),
    (r"\boxed{4", "4", 0.0),
]


@pytest.mark.parametrize(("answer", "gold", "expected"), BOXES)
def test_an_extracted_answer_is_judged_as_the_reward_judges_the_response(answer, gold, expected):
    response = f"<think>a</think> <answer>{answer}</answer>"
    extracted = final_answer(response)
    assert extracted is not None
    assert grade_answer("math", extracted, problem(gold)) == expected
    assert grade_answer("math", answer, problem(gold)) == expected
    assert accuracy([""], [response], [gold]) == [expected]


def test_instructions_are_judged_as_the_reward_does():
    columns = {"instruction_id_list": ["startend:quotation"], "kwargs": [{}]}
    assert [grade_answer("instructions", answer, problem(**columns)) for answer in ('"a"', "a")] == [1.0, 0.0]


def test_without_a_verifier_no_answer_is_right():
    assert grade_answer("none", "42", problem("42")) == 0.0
    check_problem("none", problem())


def test_what_the_verifier_cannot_judge_is_an_error():
    with pytest.raises(GradingError, match="F, row 2: "):
        grade_answer("math", "1", problem(""))
    with pytest.raises(GradingError, match="F, row 2: instruction 'new' has no checker"):
        grade_answer("instructions", "1", problem(instruction_id_list=["new"], kwargs=[{}]))
    with pytest.raises(GradingError, match="F, row 2: "):
        grade_answer("instructions", "1", problem())


def test_references_are_checked_without_an_answer():
    check_problem("math", problem(r"\frac{1}{2}"))
    check_problem("instructions", problem())
    with pytest.raises(ValueError, match="F, row 2: "):
        check_problem("math", problem(" "))
    with pytest.raises(ValueError, match="F, row 2: tests: needs one of stdin, calls, asserts"):
        check_problem("code", problem(tests={"function": "f"}))


@pytest.mark.skipif(probe.find_problem() is not None, reason=str(probe.find_problem()))
def test_tests_are_checked_with_what_their_programs_need(tmp_path, monkeypatch):
    python, cpp = (
        problem(tests={"stdin": [{"input": "", "output": "1"}], "language": name}) for name in ("python", "cpp")
    )
    check_problem("code", python)
    monkeypatch.setenv("PATH", str(tmp_path))  # the sandbox itself was found above
    check_problem("code", python)
    with pytest.raises(SandboxUnavailable, match=r"g\+\+"):
        check_problem("code", cpp)
    probe.find_problem.cache_clear()
    try:
        with pytest.raises(SandboxUnavailable, match="apt-get install"):
            check_problem("code", python)
    finally:
        probe.find_problem.cache_clear()


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
