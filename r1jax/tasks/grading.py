"""One answer judged by the reward of its problem's kind; and whether that reward can use the problem at all."""

import re
from collections.abc import Callable

from r1jax.rewards import choice, code, drop, instructions, math
from r1jax.rewards.code_tests import check_tests
from r1jax.tasks.problem import GradingError, Problem
from r1jax.text.response import boxed_answer

_MATHEMATICS = re.compile(r"[\d\\=+*/^<>√∞π∅ℝ]")
_PLACEHOLDERS = ("nan", "null", "n/a")
_PROSE = re.compile(r"(?<![\\\w])[^\W\d_]{2,}")
_WORD = re.compile(r"[^\W\d_]{2}")
_MARKED = re.compile(r".*####\s*(\S.*)", re.DOTALL)


def grade_answer(grader: str, answer: str, problem: Problem) -> float:
    """1.0 or 0.0: what the reward of a kind (one of ``GRADERS``) says of one extracted answer; of "drop" the F1.

    Code may come bare or in a fence, an answer to a question in a box. By "none" no answer is right: a judge or a
    reward model may say more. By "answer" the reference may be anything: what has a digit, a sign or a command of
    LaTeX, or no word at all, is compared as by "math"; words, and what the math reward cannot read, by their letters
    without regard to case, white space and a closing full stop (as mathematics "was" would be "saw"). Of a reference
    the box counts, or what follows "####". Without a reference no answer is right.

    Raises GradingError where the verifier fails, whatever the answer.
    """
    where = problem.columns.get("row")
    try:
        score = GRADERS[grader](answer, problem)
    except Exception as error:
        raise GradingError(f"{where}: {error}") from error
    if isinstance(score, Exception):
        raise GradingError(f"{where}: {score}") from score
    return score


def check_problem(grader: str, problem: Problem) -> None:
    """Looks whether a problem can be solved: its reference, where it has one, must score 1.0 by its verifier.

    Raises:
        ValueError: it cannot; names the row.
        SandboxUnavailable: its programs cannot run on this machine.
    """
    where = problem.columns.get("row")
    try:
        if grader == "code":
            check_tests(problem.columns["tests"])
        elif grader in ("math", "choice") or (grader == "answer" and problem.answer.strip()):
            if grader == "math" and _is_no_mathematics(problem.answer):
                raise ValueError(f"reference answer {problem.answer!r:.80} is no mathematics")
            score = GRADERS[grader](_read_out(problem.answer) if grader == "answer" else problem.answer, problem)
            if isinstance(score, Exception):
                raise ValueError(re.sub(r"^row 0: ", "", str(score))) from score
            if score < 1.0:
                raise ValueError(f"reference answer {problem.answer!r:.80} does not score 1.0 by its verifier")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _is_no_mathematics(reference: str) -> bool:
    """Whether it is a placeholder, or prose: a dozen words of which no response can hit every one."""
    return reference.strip().casefold() in _PLACEHOLDERS or len(_PROSE.findall(reference)) >= 12


def _judge_any(answer: str | None, reference: str) -> float | Exception:
    """The kind "answer" of ``grade_answer``."""
    reference = _read_out(reference)
    if not reference or answer is None:
        return 0.0
    if _MATHEMATICS.search(reference) or not _WORD.search(reference):
        score = math.grade_math([answer], [reference])[0]
        if not isinstance(score, ValueError):
            return score
    return float(_letters(answer) == _letters(reference))


def _read_out(reference: str) -> str:
    marked = _MARKED.fullmatch(reference)
    return (boxed_answer(reference) or (marked[1] if marked else reference)).strip()


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
    "drop": lambda answer, problem: drop.drop_scores([_unboxed(answer) or ""], problem.columns["references"])[1],
    "answer": lambda answer, problem: _judge_any(_unboxed(answer), problem.answer),
    "none": lambda answer, problem: 0.0,
}
"""Kind -> what scores one extracted answer."""
