"""One answer judged by the reward of its problem's kind; and whether that reward can use the problem at all."""

from collections.abc import Callable
from typing import Any

from r1jax.tasks.types import GradingError, Problem


def grade_answer(grader: str, answer: str, problem: Problem) -> float:
    """1.0 or 0.0: what the reward of a kind ("math", "choice", "code", "instructions") says of one extracted answer.

    Code may come bare, or with the fence around it.

    Raises:
        GradingError: the verifier fails, whatever the answer.
        ValueError: unknown kind.
    """
    function, named = _reward(grader)
    if grader == "code" and "```" not in answer:
        answer = f"```python\n{answer}\n```"
    # An answer that brings tags of its own would be read as another one.
    completion = (
        answer if grader == "code" else f"<answer>{answer.replace('<answer>', '').replace('</answer>', '')}</answer>"
    )
    columns = {name: [problem.answer if name == "answer" else problem.columns.get(name)] for name in named}
    try:
        score = function([""], [completion], **columns)[0]
    except Exception as error:
        raise GradingError(f"{problem.columns.get('row')}: {error}") from error
    if isinstance(score, Exception) or score is None:
        raise GradingError(f"{problem.columns.get('row')}: {score}") from score
    return float(score)


def check_problem(grader: str, problem: Problem) -> None:
    """Raises ValueError, naming the row, for a problem that the verifier of its kind cannot use."""
    try:
        if grader == "math":
            from r1jax.rewards.math import check_answer

            check_answer(problem.answer)
        elif grader == "choice":
            from r1jax.rewards.choice import read_letter

            if read_letter(problem.answer) is None:
                raise ValueError(f"reference answer {problem.answer!r} is no letter of an option")
        elif grader == "code":
            from r1jax.rewards.code_tests import read_tests

            read_tests(problem.columns["tests"])
    except ValueError as error:
        raise ValueError(f"{problem.columns.get('row')}: {error}") from error


def _reward(grader: str) -> tuple[Callable[..., Any], tuple[str, ...]]:
    """The reward function of a kind, and the columns that it is called with."""
    if grader == "math":
        from r1jax.rewards.math import accuracy

        return accuracy, ("answer",)
    if grader == "choice":
        from r1jax.rewards.choice import accuracy

        return accuracy, ("answer", "choices")
    if grader == "code":
        from r1jax.rewards.code import passes_tests

        return passes_tests, ("tests",)
    if grader == "instructions":
        from r1jax.rewards.instructions import follows

        return follows, ("instruction_id_list", "kwargs")
    raise ValueError(f"no reward for answers of kind {grader!r}")
