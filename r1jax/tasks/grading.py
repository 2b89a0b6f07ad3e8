"""One answer judged by the reward of its problem's kind; and whether that reward can use the problem at all."""

import re
from collections.abc import Callable

from r1jax.rewards import choice, code, instructions, math
from r1jax.rewards.code_tests import check_tests
from r1jax.rewards.sandbox import SandboxUnavailable
from r1jax.tasks.problem import GradingError, Problem
from r1jax.text.response import boxed_answer

_MATHEMATICS = re.compile(r"[\d\\=+*/^<>√∞π∅ℝ]")
_WORD = re.compile(r"[^\W\d_]{2}")
_MARKED = re.compile(r".*####\s*(\S.*)", re.DOTALL)


def grade_answer(grader: str, answer: str, problem: Problem) -> float:
    """1.0 or 0.0: what the reward of a kind (one of ``GRADERS``) says of one extracted answer.

    Code may come bare or in a fence, an answer to a question in a box. By "none" no answer is right: a judge or a reward
    model may say more. By "answer" the reference may be anything: what has a digit, a sign or a command of LaTeX, or no word
    at all, is compared as by "math"; words, and what the math reward cannot read, by their letters without regard to case,
    white space and a closing full stop (as mathematics "was" would be "saw"). Of a reference the box counts, or what follows
    "####". Without a reference no answer is right.

    Raises:
        GradingError: the verifier fails, whatever the answer.
        ValueError: unknown kind.
    """
    if grader not in GRADERS:
        raise ValueError(f"no reward for answers of kind {grader!r}")
    where = problem.columns.get("row")
    try:
        score = GRADERS[grader](answer, problem)
    except Exception as error:
        raise GradingError(f"{where}: {error}") from error
    if isinstance(score, Exception):
        raise GradingError(f"{where}: {score}") from score
    return score


def check_problem(grader: str, problem: Problem) -> None:
    """Raises ValueError, naming the row, for a problem that the verifier of its kind cannot use, or not on this machine."""
    try:
        if grader == "math":
            math.check_answer(problem.answer)
        elif grader == "choice" and choice.read_letter(problem.answer) is None:
            raise ValueError(f"reference answer {problem.answer!r} is no letter of an option")
        elif grader == "code":
            check_tests(problem.columns["tests"])
    except (ValueError, SandboxUnavailable) as error:
        raise ValueError(f"{problem.columns.get('row')}: {error}") from error


def _judge_any(answer: str | None, reference: str) -> float | Exception:
    """The kind "answer" of ``grade_answer``."""
    marked = _MARKED.fullmatch(reference)
    reference = (boxed_answer(reference) or (marked[1] if marked else reference)).strip()
    if not reference or answer is None:
        return 0.0
    if _MATHEMATICS.search(reference) or not _WORD.search(reference):
        score = math.grade_math([answer], [reference])[0]
        if not isinstance(score, ValueError):
            return score
    return float(_letters(answer) == _letters(reference))


def _letters(text: str) -> str:
    return " ".join(text.split()).casefold().removesuffix(".")


def _unboxed(answer: str) -> str | None:
    """What is in the answer's boxes, or the answer itself; None where a box has no end."""
    box = boxed_answer(answer)
    return box if box is not None or "\\boxed" in answer else answer


GRADERS: dict[str, Callable[[str, Problem], float | Exception]] = {
    "math": lambda answer, problem: math.grade_math([_unboxed(answer)], [problem.answer])[0],
    "choice": lambda answer, problem: choice.grade_choices(
        [_unboxed(answer)], [problem.answer], choices=[problem.columns.get("choices")]
    )[0],
    "code": lambda answer, problem: code.grade_program(answer, problem.columns.get("tests")),
    "instructions": lambda answer, problem: float(
        instructions.follows_all(answer, problem.columns["instruction_id_list"], problem.columns["kwargs"])
    ),
    "answer": lambda answer, problem: _judge_any(_unboxed(answer), problem.answer),
    "none": lambda answer, problem: 0.0,
}
"""Kind -> what scores one extracted answer."""
