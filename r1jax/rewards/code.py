"""The code reward: 1.0 where a program passes all of its problem's tests, else 0.0 (R1 v2 B.3.1; spec B.6.1).

The program is the last fenced block of the asked language in the final part of the response. It runs confined
(``r1jax.rewards.sandbox``); what it should have printed or returned never enters its sandbox, and is compared here, or by
the problem's checker in a sandbox of its own. So nothing that a program does to its process (leaving early, patching,
overriding ``__eq__``, reading frames, files or memory) can win more than an answer.

A program that fails, or goes beyond its limits, scores 0.0. Where the sandbox, the checker or the column ``tests``
(``code_tests``) is at fault, the score is an exception: the rubric counts it as an error, not as a wrong answer.
"""

import concurrent.futures
import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from r1jax.rewards import inside, sandbox
from r1jax.rewards.accuracy import graded_by
from r1jax.rewards.code_tests import Tests, read_tests
from r1jax.text.response import is_cut_off, summary_of

_TAGS = {"python": {"python", "python3", "py", "py3"}, "cpp": {"cpp", "c++", "cc", "cxx", "c++17"}}


class VerifierError(RuntimeError):
    """The verifier failed (sandbox, checker, assertions), not the program that it judges."""


def passes_tests(
    prompts: Sequence[str],
    completions: Sequence[str],
    tests: Sequence[Any],
    stop_reason: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | Exception | None]:
    """1.0 for a program that passes all tests; None where ``tests`` is None: not a programming problem.

    Programs run one a core at a time. A response cut off at the length limit has no final program: 0.0 (spec G.12).

    Args:
        tests: the problems' tests, see ``code_tests``.
        columns: a program that the task has graded is not run again (``accuracy.graded_by``).

    Raises:
        SandboxUnavailable: programs cannot be confined on this machine; says what to install.
    """
    sandbox.require()
    is_cut = is_cut_off(stop_reason, len(completions))
    graded = graded_by("code", columns, count=len(completions))
    rows = list(zip(prompts, completions, tests, is_cut, graded, strict=True))

    def score(row: tuple) -> float | Exception | None:
        prompt, text, column, cut, grade = row
        if column is None:
            return None
        return _scored(lambda name: None if cut else find_program(text, language=name, prompt=prompt), column, grade)

    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(score, rows))


def grade_program(answer: str, tests: Any) -> float | Exception:
    """As ``passes_tests`` for an answer that is extracted already: the last block as in ``find_program``, or a bare program."""
    sandbox.require()
    return _scored(lambda language: _last_block(answer, language) if "```" in answer else f"{answer}\n", tests)


def find_program(text: str, *, language: str, prompt: str = "") -> str | None:
    """The last closed fenced block of a language, or the last without one, after the reasoning; None where there is none.

    The reasoning ends as in ``response.summary_of``.
    """
    return _last_block(summary_of(text, prompt=prompt) or "", language)


def _last_block(final: str, language: str) -> str | None:
    tagged = untagged = None
    block: list[str] | None = None
    opening, tag, indent = "", "", 0
    for line in final.split("\n"):
        fence, word = _read_fence(line)
        if block is None:
            if fence:
                block, opening, tag, indent = [], fence, word, len(line) - len(line.lstrip(" "))
        elif fence.startswith(opening) and not word:
            program = "".join(f"{line}\n" for line in block)
            tagged = program if tag in _TAGS[language] else tagged
            untagged = program if not tag else untagged
            block = None
        else:
            block.append(line[min(indent, len(line) - len(line.lstrip(" "))) :])  # a fence in a list is indented
    return tagged if tagged is not None else untagged


def same_output(got: str, expected: str) -> bool:
    """Whether two outputs have the same lines, but for white space at their ends and empty lines at the end of all."""
    one, other = ([line.rstrip() for line in text.rstrip().split("\n")] for text in (got, expected))
    return one == other


def same_json(got: Any, expected: Any, *, tolerance: float = 0.0) -> bool:
    """Whether two JSON values are equal. Numbers by value (2 and 2.0), floats within the tolerance; true is no number."""
    if isinstance(expected, bool) or isinstance(got, bool) or expected is None:
        return got is expected
    if isinstance(expected, int | float):
        if not isinstance(got, int | float):
            return False
        return got == expected or (bool(tolerance) and _is_near(got, expected, tolerance))
    if type(got) is not type(expected):
        return False
    if isinstance(expected, list):
        pairs = zip(got, expected, strict=False)
        return len(got) == len(expected) and all(same_json(a, b, tolerance=tolerance) for a, b in pairs)
    if isinstance(expected, dict):
        return set(got) == set(expected) and all(
            same_json(got[key], expected[key], tolerance=tolerance) for key in expected
        )
    return got == expected


def _read_fence(line: str) -> tuple[str, str]:
    """The fence of a line and the word behind it, in lower case; empty where it is no fence."""
    line = line.strip()
    rest = line.lstrip(line[:1]) if line[:1] in ("`", "~") else line
    fence = line[: len(line) - len(rest)]
    if len(fence) < 3 or "`" in rest:
        return "", ""
    return fence, rest.lower().split(maxsplit=1)[0] if rest else ""


def _scored(
    find: Callable[[str], str | None], tests: Any, graded: tuple[str, float | None] = ("", None)
) -> float | Exception:
    """The score of the program that ``find`` gives for a language; 0.0 for none; the grade of an answer of that program."""
    try:
        suite = read_tests(tests)
        program = find(suite.language)
        answer, grade = graded
        if grade is not None and program is not None and program == _last_block(answer, suite.language):
            return grade
        return 0.0 if program is None else float(_passes(program, suite))
    except Exception as error:
        return error


def _passes(source: str, tests: Tests) -> bool:
    if tests.kind == "stdin":
        return _prints(source, tests)
    assert tests.function is not None
    if tests.asserts is not None:
        return _holds(source, tests.asserts, tests.function, tests)
    got = _values(source, tests.function, [given for given, _ in tests.cases], tests.limits, prelude=tests.prelude)
    return got is not None and all(
        _is_right(value, given, expected, tests) for value, (given, expected) in zip(got, tests.cases, strict=True)
    )


def _holds(source: str, asserts: str, function: str, tests: Tests) -> bool:
    """Whether assertions hold of a function of a Python program. They and the function run in two sandboxes, joined by pipes.

    So the assertions, which hold the answers, are never in the process, nor in the file system, of the program that they
    judge. A call's arguments and its value cross as literals; a program that changes its arguments in place is not seen to.

    Raises:
        VerifierError: the assertions fail without the function, or go beyond their limits while it does not.
    """
    server = _program_inside("solution_server", prelude=tests.prelude, solution=source)
    asserter = _program_inside("asserter", asserts=asserts)
    judged, judge = sandbox.run_pair(server, asserter, tests.limits, args=((), (function,)))
    _check_sandbox(judged, judge)
    if judge.status == "ok":
        return True
    verdict = judge.stderr.rstrip().rpartition("\n")[2]
    if verdict == "failed" or judged.status != "ok":
        return False
    raise VerifierError(f"the assertions are at fault ({judge.status}): {judge.stderr.strip()[-500:]}")


def _program_inside(name: str, **modules: str) -> sandbox.Program:
    """The program of that name in ``inside``, with further modules next to it."""
    program = sandbox.prepare(inside.source_of(name))
    assert isinstance(program, sandbox.Program)
    files = {f"/box/{module}.py": text.encode("utf-8", "surrogatepass") for module, text in modules.items()}
    return dataclasses.replace(program, files=program.files | files)


def _check_sandbox(*results: sandbox.Result) -> None:
    """Raises VerifierError for the first run that the sandbox itself failed."""
    for result in results:
        if result.status == "sandbox":
            raise VerifierError(f"the sandbox failed: {result.stderr.strip()[-500:]}")


def _prints(source: str, tests: Tests) -> bool:
    """Whether the program prints what it should on each input; ends at the first that it fails."""
    program = sandbox.prepare(source, language=tests.language)
    if isinstance(program, sandbox.Result):
        _check_sandbox(program)
        return False
    for given, expected in tests.cases:
        result = sandbox.run_program(program, tests.limits, stdin=given)
        _check_sandbox(result)
        if result.status != "ok" or not _is_right(result.stdout, given, expected, tests):
            return False
    return True


def _is_right(got: Any, given: Any, expected: Any, tests: Tests) -> bool:
    """Whether one output or value is right: by the checker if there is one, whose limits are those of one input.

    Where the checker fails on an output, but finds the expected one right, the output is at fault.
    """
    if tests.checker is not None:
        verdict = _verdict(given, got, expected, tests)
        if verdict is None and not _verdict(given, expected, expected, tests):
            raise VerifierError("the problem's checker failed, or gave something other than True and False")
        return bool(verdict)
    if tests.kind == "stdin":
        return same_output(got, expected)
    return same_json(got, expected, tolerance=tests.tolerance)


def _verdict(given: Any, got: Any, expected: Any, tests: Tests) -> bool | None:
    """What the problem's checker says; None where it fails, or says something other than True and False."""
    assert tests.checker is not None
    verdicts = _values(tests.checker, "check", [[given, got, expected]], tests.limits)
    return verdicts[0] if verdicts is not None and isinstance(verdicts[0], bool) else None


def _values(
    source: str, function: str, calls: Sequence[Any], limits: sandbox.Limits, *, prelude: str = ""
) -> list[Any] | None:
    """What the function gives for each call; None where the program fails on any of them."""
    task = json.dumps({"prelude": prelude, "source": source, "function": function, "calls": calls})
    result = sandbox.run_program(_program_inside("calls"), limits, stdin=task)
    _check_sandbox(result)
    if result.status != "ok":
        return None
    try:
        values = json.loads(result.stdout)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, list) and len(values) == len(calls) else None


def _is_near(got: float, expected: float, tolerance: float) -> bool:
    try:
        return math.isclose(got, expected, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # an integer that no float can hold
        return False
