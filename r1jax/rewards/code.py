"""The code reward: 1.0 where a program passes all of its problem's tests, else 0.0 (R1 v2 B.3.1; spec B.6.1).

The program is the last fenced block of the asked language in the final part of the response. It runs confined
(``r1jax.rewards.sandbox``); what it should have printed or returned never enters its sandbox, and is compared here, or by
the problem's checker in a sandbox of its own. So nothing that a program does to its process (leaving early, patching,
overriding ``__eq__``, reading frames, files or memory) can win more than an answer.

A program that fails, or goes beyond its limits, scores 0.0. Where the sandbox, the checker or the column ``tests``
(``code_tests``) is at fault, the score is an exception: the rubric counts it as an error, not as a wrong answer.
"""

import concurrent.futures
import json
import math
import os
from collections.abc import Sequence
from typing import Any

from r1jax.rewards import inside, sandbox
from r1jax.rewards.code_asserts import passes_asserts
from r1jax.rewards.code_tests import Tests, read_tests

_TAGS = {"python": {"python", "python3", "py", "py3"}, "cpp": {"cpp", "c++", "cc", "cxx", "c++17"}}


class VerifierError(RuntimeError):
    """The verifier failed, not the program that it judges."""


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
        prompts: not looked at.
        completions: responses.
        tests: the problems' tests, see ``code_tests``.
        stop_reason: "length" for a response that was cut off.
        columns: not looked at.

    Raises:
        SandboxUnavailable: programs cannot be confined on this machine; says what to install.
    """
    sandbox.require()
    reasons = stop_reason if stop_reason is not None else ["stop"] * len(completions)
    rows = list(zip(completions, tests, reasons, strict=True))
    workers = min(len(rows), len(os.sched_getaffinity(0))) or 1
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda row: _score(*row), rows))


def find_program(text: str, *, language: str) -> str | None:
    """The last closed fenced block of a language, or the last without one, after the reasoning; None where there is none.

    The reasoning ends at the last ``</think>``; a response that opens ``<think>`` and does not close it has only that.
    """
    _, closing, final = text.rpartition("</think>")
    if not closing and "<think>" in text:
        return None
    tagged = untagged = None
    block: list[str] | None = None
    opening, tag = "", ""
    for line in final.split("\n"):
        fence, word = _read_fence(line)
        if block is None:
            if fence:
                block, opening, tag = [], fence, word
        elif fence.startswith(opening) and not word:
            program = "".join(f"{line}\n" for line in block)
            tagged = program if tag in _TAGS[language] else tagged
            untagged = program if not tag else untagged
            block = None
        else:
            block.append(line)
    return tagged if tagged is not None else untagged


def same_output(got: str, expected: str) -> bool:
    """Whether two outputs have the same lines, but for white space at their ends and empty lines at the end of all."""
    return _lines(got) == _lines(expected)


def same_value(got: Any, expected: Any, *, tolerance: float = 0.0) -> bool:
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
        return len(got) == len(expected) and all(same_value(a, b, tolerance=tolerance) for a, b in pairs)
    if isinstance(expected, dict):
        return set(got) == set(expected) and all(
            same_value(got[key], expected[key], tolerance=tolerance) for key in expected
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


def _score(completion: str, tests: Any, reason: str) -> float | Exception | None:
    if tests is None:
        return None
    try:
        suite = read_tests(tests)
        program = None if reason == "length" else find_program(completion, language=suite.language)
        return 0.0 if program is None else float(_passes(program, suite))
    except Exception as error:
        return error


def _passes(source: str, tests: Tests) -> bool:
    if tests.kind == "asserts":
        assert tests.asserts is not None and tests.function is not None
        return passes_asserts(source, tests.asserts, function=tests.function, limits=tests.limits)
    if tests.kind == "stdin":
        got = _outputs(source, tests)
    else:
        assert tests.function is not None
        got = _values(source, tests.function, [given for given, _ in tests.cases], tests.limits)
    if got is None:
        return False
    if tests.checker is not None:
        return _checked(tests, got)
    if tests.kind == "stdin":
        return True
    pairs = zip(got, (expected for _, expected in tests.cases), strict=True)
    return all(same_value(value, expected, tolerance=tests.tolerance) for value, expected in pairs)


def _outputs(source: str, tests: Tests) -> list[str] | None:
    """What the program prints on each input; None at the first test that it fails."""
    program = sandbox.prepare(source, language=tests.language)
    if isinstance(program, sandbox.Result):
        _check_sandbox(program)
        return None
    outputs = []
    for given, expected in tests.cases:
        result = sandbox.run_program(program, tests.limits, stdin=given)
        _check_sandbox(result)
        if result.status != "ok" or (tests.checker is None and not same_output(result.stdout, expected)):
            return None
        outputs.append(result.stdout if tests.checker is not None else "")
    return outputs


def _values(source: str, function: str, calls: Sequence[Any], limits: sandbox.Limits) -> list[Any] | None:
    """What the function gives for each call; None where the program fails on any of them."""
    program = sandbox.prepare(inside.read("calls"))
    assert isinstance(program, sandbox.Program)
    task = json.dumps({"source": source, "function": function, "calls": calls})
    result = sandbox.run_program(program, limits, stdin=task)
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


def _checked(tests: Tests, got: Sequence[Any]) -> bool:
    assert tests.checker is not None
    calls = [[given, value, expected] for (given, expected), value in zip(tests.cases, got, strict=True)]
    verdicts = _values(tests.checker, "check", calls, tests.limits)
    if verdicts is None or not all(isinstance(verdict, bool) for verdict in verdicts):
        raise VerifierError("the problem's checker failed, or gave something other than True and False")
    return all(verdicts)


def _check_sandbox(result: sandbox.Result) -> None:
    if result.status == "sandbox":
        raise VerifierError(f"the sandbox failed: {result.stderr.strip()[-500:]}")


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines
