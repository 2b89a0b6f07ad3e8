"""The code reward: 1.0 where a program passes all of its problem's tests, else 0.0 (R1 v2 B.3.1; spec B.6.1).

The program is the last fenced block of the asked language in the final part of the response. It runs confined
(``r1jax.rewards.sandbox``); what it should have printed or returned never enters its sandbox, and is compared here, or
by the problem's checker in a sandbox of its own. So nothing that a program does to its process (leaving early,
patching, overriding ``__eq__``, reading frames, files or memory) can win more than an answer.

A program that fails, or goes beyond its limits, scores 0.0. Where the sandbox, the checker or the column ``tests``
(``code_tests``) is at fault, the score is an exception: the rubric counts it as an error, not as a wrong answer.

Scores are those of the data sets' judges (LiveCodeBench, EvalPlus, Codeforces), except where these pay or refuse by
accident: a program is a process of its own for each input, so what one input leaves behind does not reach the next, and
``global``, ``__name__`` and reading standard input as bytes mean what they mean elsewhere; true and 1 are different
values; tuples count as lists at any depth, not only outermost; memory is at most that of ``tests``, where LiveCodeBench
and EvalPlus allow 4 GB.
"""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from r1jax.rewards import sandbox
from r1jax.rewards.accuracy import graded_by
from r1jax.rewards.code_tests import Tests, read_tests
from r1jax.text.response import is_cut_off, summary_of

_INSIDE = Path(__file__).with_name("inside")
_FENCE = re.compile(r"\s*+(`{3,}+|~{3,}+)\s*+([^`\s]*+)[^`]*+$")  # and the first word behind it


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

    Programs run one a core at a time, equal ones of equal tests once. A response cut off at the length limit has no
    final
    program: 0.0 (spec G.12).

    Args:
        tests: the problems' tests, see ``code_tests``.
        columns: a program that the task has graded is not run again (``accuracy.graded_by``).

    Raises:
        SandboxUnavailable: programs cannot be confined on this machine; says what to install.
    """
    sandbox.require()
    scores: list[Any] = []
    futures = {}
    is_cut = is_cut_off(stop_reason, len(completions))
    graded = graded_by("code", columns, count=len(completions))
    for prompt, text, column, cut, (answer, grade) in zip(prompts, completions, tests, is_cut, graded, strict=True):
        try:
            suite = None if column is None else read_tests(column)
        except ValueError as error:
            suite = error
        if not isinstance(suite, Tests):
            scores.append(suite)
            continue
        program = None if cut else find_program(text, language=suite.language, prompt=prompt)
        if grade is not None and program is not None and program == _last_block(answer, suite.language):
            scores.append(grade)
            continue
        key = program, id(column)
        if key not in futures:
            futures[key] = sandbox.submit(_score, program, suite)
        scores.append(futures[key])
    by_future = dict(zip(futures.values(), sandbox.results_of(futures.values()), strict=True))
    return [by_future.get(score, score) for score in scores]


def grade_program(answer: str, tests: Any) -> float | Exception:
    """As ``passes_tests`` for an answer that is extracted already: the last block as in ``find_program``, or a bare program."""
    sandbox.require()
    try:
        suite = read_tests(tests)
    except ValueError as error:
        return error
    return _score(_last_block(answer, suite.language) if "```" in answer else f"{answer}\n", suite)


def find_program(text: str, *, language: str, prompt: str = "") -> str | None:
    """The last closed fenced block of a language, or the last without one, after the reasoning; None where there is
    none.

    The reasoning ends as in ``response.summary_of``.
    """
    return _last_block(summary_of(text, prompt=prompt) or "", language)


def _last_block(final: str, language: str) -> str | None:
    tagged = untagged = None
    block: list[str] | None = None
    opening, tag, indent = "", "", 0
    for line in final.split("\n"):
        match = _FENCE.match(line)
        fence, word = (match[1], match[2].lower()) if match else ("", "")
        if block is None:
            if fence:
                block, opening, tag, indent = [], fence, word, len(line) - len(line.lstrip(" "))
        elif fence.startswith(opening) and not word:
            program = "".join(f"{line}\n" for line in block)
            tagged = program if _is_in(tag, language) else tagged
            untagged = program if not tag else untagged
            block = None
        else:
            block.append(line[min(indent, len(line) - len(line.lstrip(" "))) :])  # a fence in a list is indented
    return tagged if tagged is not None else untagged


def same_output(got: str, expected: str, *, compare: str = "lines", tolerance: float = 0.0) -> bool:
    """Whether two outputs are the same, see "compare" and "tolerance" in ``code_tests``."""
    one, other = (
        text.split() if compare == "tokens" else [line.strip() for line in text.strip().split("\n")]
        for text in (got, expected)
    )
    return len(one) == len(other) and all(
        a == b or ((compare == "lines" or tolerance > 0.0) and _same_numbers(a.split(), b.split(), tolerance))
        for a, b in zip(one, other, strict=True)
    )


def same_json(got: Any, expected: Any, *, tolerance: float = 0.0) -> bool:
    """Whether two JSON values are equal. Numbers by value (2 and 2.0), floats within the tolerance; true is no number."""
    if {type(got), type(expected)} <= {int, float}:
        return got == expected or (bool(tolerance) and _is_near(got, expected, tolerance))
    if type(got) is not type(expected):
        return False
    if isinstance(expected, dict):
        return set(got) == set(expected) and all(
            same_json(got[key], expected[key], tolerance=tolerance) for key in expected
        )
    if isinstance(expected, list):
        pairs = zip(got, expected, strict=False)
        return len(got) == len(expected) and all(same_json(a, b, tolerance=tolerance) for a, b in pairs)
    return got == expected


def _same_numbers(got: list[str], expected: list[str], tolerance: float) -> bool:
    """Whether the words of two lines are the same numbers; with a tolerance, about the same numbers or the same words."""
    if len(got) != len(expected):
        return False
    try:
        if not tolerance:
            return list(map(Decimal, got)) == list(map(Decimal, expected))
        return all(a == b or _is_near(Decimal(a), Decimal(b), tolerance) for a, b in zip(got, expected, strict=True))
    except (ArithmeticError, ValueError):  # a word that is no number, or a NaN that signals
        return False


def _is_in(tag: str, language: str) -> bool:
    """Whether a fence's tag names a language; C++ of any year."""
    return (sandbox.read_language(tag) or "")[:3] == language[:3]


def _score(program: str | None, tests: Tests) -> float | Exception:
    """1.0 or 0.0; 0.0 for no program; what the verifier failed by."""
    try:
        return 0.0 if program is None else float(_passes(program, tests))
    except Exception as error:
        return error


def _passes(source: str, tests: Tests) -> bool:
    return {"stdin": _prints, "calls": _returns, "asserts": _holds}[tests.kind](source, tests)


def _prints(source: str, tests: Tests) -> bool:
    """Whether the program prints what it should on each input; ends at the first that it fails."""
    if tests.prelude:
        command = _command_inside("script", prelude=tests.prelude, solution=source)
    else:
        command = sandbox.prepare(source, language=tests.language)
    if isinstance(command, sandbox.RunResult):
        _check_sandbox(command)
        return False
    for given, right in tests.cases:
        result = sandbox.run_command(command, tests.limits, stdin=given)
        _check_sandbox(result)
        if result.status != "ok" or not _is_right(result.stdout, given, right, tests):
            return False
    return True


def _returns(source: str, tests: Tests) -> bool:
    """Whether the function gives what it should, or leaves it in its first argument, for all arguments."""
    given = [arguments for arguments, _ in tests.cases]
    got = _values(source, str(tests.function), given, tests, prelude=tests.prelude, in_place=tests.in_place)
    return got is not None and all(
        _is_right(value, arguments, right, tests) for value, (arguments, right) in zip(got, tests.cases, strict=True)
    )


def _holds(source: str, tests: Tests) -> bool:
    """Whether assertions hold of a function of a Python program. They and the function run in two sandboxes, joined by
    pipes.

    So the assertions, which hold the answers, are never in the process, nor in the file system, of the program that
    they judge. A call's arguments and its value cross as literals.

    Raises:
        VerifierError: the assertions fail without the function, or go beyond their limits while it does not.
    """
    server = _command_inside("solution_server", prelude=tests.prelude, solution=source)
    asserter = _command_inside("asserter", asserts=tests.asserts)
    judged, judge = sandbox.run_pair(server, asserter, tests.limits, args=(("literals",), (str(tests.function),)))
    _check_sandbox(judged, judge)
    if judge.status == "ok":
        return True
    verdict = judge.stderr.rstrip().rpartition("\n")[2]
    if verdict == "failed" or judged.status != "ok":
        return False
    raise VerifierError(f"the assertions are at fault ({judge.status}): {judge.stderr.strip()[-500:]}")


def _command_inside(name: str, **modules: str) -> sandbox.Command:
    """The program of that name in ``inside``, with further modules next to it."""
    command = sandbox.prepare((_INSIDE / f"{name}.py").read_text(encoding="utf-8"))
    assert isinstance(command, sandbox.Command)
    files = {f"/box/{module}.py": text.encode("utf-8", "surrogatepass") for module, text in modules.items()}
    return dataclasses.replace(command, files=command.files | files)


def _check_sandbox(*results: sandbox.RunResult) -> None:
    """Raises VerifierError for the first run that the sandbox itself failed."""
    for result in results:
        if result.status == "sandbox":
            raise VerifierError(f"the sandbox failed: {result.stderr.strip()[-500:]}")


def _is_right(got: Any, given: Any, right: list[Any], tests: Tests) -> bool:
    """Whether one output or value is one of the right ones: by the checker if there is one, with the limits of one
    input.

    Where the checker fails on an output, but finds the expected one right, the output is at fault.
    """
    try:
        if tests.checker is not None:
            ask = _ask_function if tests.checker_kind == "function" else _ask_program
            verdicts = [ask(given, got, expected, tests) for expected in right]
            if None in verdicts and not any(verdicts) and not ask(given, right[0], right[0], tests):
                raise VerifierError("the problem's checker failed, or gave something other than True and False")
            return any(verdicts)
        if tests.kind == "stdin":
            return any(same_output(got, text, compare=tests.compare, tolerance=tests.tolerance) for text in right)
        return any(same_json(got, expected, tolerance=tests.tolerance) for expected in right)
    except RecursionError:  # a value of lists in lists in lists
        return False


def _ask_function(given: Any, got: Any, expected: Any, tests: Tests) -> bool | None:
    """What the ``check`` of a checker says; None where it fails, or says something other than True and False."""
    verdicts = _values(str(tests.checker), "check", [[given, got, expected]], tests)
    return verdicts[0] if verdicts is not None and isinstance(verdicts[0], bool) else None


def _ask_program(given: str, got: str, expected: str, tests: Tests) -> bool | None:
    """What a checker says that is started with files; None where it fails."""
    is_testlib = tests.checker_kind == "testlib"
    command = _checker(str(tests.checker), "cpp" if is_testlib else "python")
    texts = {"input.txt": given, "solution_output.txt": got, "correct_output.txt": expected}
    names = list(texts) if is_testlib else ["input.txt", "correct_output.txt", "solution_output.txt"]
    files = {f"/home/{name}": text.encode("utf-8", "surrogatepass") for name, text in texts.items()}
    command = dataclasses.replace(command, files=command.files | files)
    result = sandbox.run_command(command, tests.limits, args=names)
    _check_sandbox(result)
    if result.status != "ok":
        return False if is_testlib and result.status == "exit" and not result.stderr.startswith("FAIL") else None
    return is_testlib or result.stdout.strip() == "1"


@functools.lru_cache(maxsize=64)
def _checker(source: str, language: str) -> sandbox.Command:
    """A checker's command, compiled once."""
    command = sandbox.prepare(source, language=language)
    if isinstance(command, sandbox.RunResult):
        raise VerifierError(f"the problem's checker does not compile: {command.stderr.strip()[:500]}")
    return command


def _values(
    source: str, function: str, calls: Sequence[Any], tests: Tests, *, prelude: str = "", in_place: bool = False
) -> list[Any] | None:
    """What the function gives for each call, or leaves in its first argument; None where the program fails on any of them."""
    lines = "".join(f"{json.dumps((function, arguments, {}))}\n" for arguments in calls)
    server = _command_inside("solution_server", prelude=prelude, solution=source)
    result = sandbox.run_command(server, tests.limits, stdin=lines, args=["json"])
    _check_sandbox(result)
    replies = result.stdout.splitlines()
    if result.status != "ok" or len(replies) != len(calls):
        return None
    values = []
    for reply, arguments in zip(replies, calls, strict=True):
        try:
            kind, value, changed = json.loads(reply)
            values.append((changed or arguments)[0] if in_place else value)
        except (ValueError, TypeError, LookupError, RecursionError):
            return None
        if kind != "value":
            return None
    return values


def _is_near(got: float | Decimal, expected: float | Decimal, tolerance: float) -> bool:
    try:
        return math.isclose(got, expected, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # an integer that no float can hold
        return False
