"""The column ``tests`` of a programming problem: its form, checked.

A mapping, or the JSON text of one, with one of

- ``"stdin"``: list of ``{"input": text, "output": text}``: the program reads one and must print the other.
- ``"calls"``: list of ``{"arguments": [value, ...], "expected": value}`` with ``"function"``: "name", or "Class.method"
  of an instance made anew for each call. Python only. Values are JSON's: a tuple counts as a list, a scalar of numpy as
  a number, 2.0 equals 2, true does not equal 1.
- ``"asserts"``: text of a Python program with ``"function"``, whose name it calls as it likes: the ``check`` of
  HumanEval and EvalPlus, MBPP's assertions. Python only. Arguments and values are literals (numbers, text, lists,
  tuples, dicts, sets, None); a value of a subclass counts as what it is a kind of, a ``Counter`` as a dict. What the
  function changes in its arguments is seen; a StopIteration that it raises comes as a RuntimeError.

Where several answers are right, ``"any_of": [...]`` stands for a test's "output" or "expected". Further keys, where
wanted: those of ``Options``; ``"cpu_seconds"`` and ``"seconds"`` for each input, or for all calls together,
``"memory_mb"`` and ``"output_kb"`` (default 4096), see ``sandbox.Limits``.
"""

import dataclasses
import json
from typing import Any, Literal

from r1jax.rewards import sandbox
from r1jax.specs.fields import Decay, types_of
from r1jax.specs.reader import read, read_some

_KINDS = {"stdin": ("input", "output"), "calls": ("arguments", "expected"), "asserts": ()}
_ONLY_WITH = {
    "function": ("calls", "asserts"),
    "compare": ("stdin",),
    "tolerance": ("stdin", "calls"),
    "in_place": ("calls",),
    "checker": ("stdin", "calls"),
    "checker_kind": ("stdin",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How a problem's programs are run and judged.

    language: Python 3 or C++, as data sets name them: "pypy3", "cpp17", "GNU C++20 (64)" (``sandbox.read_language``).
    prelude: a Python program that runs before the program, in the same module: imports and helpers that the problem or
        its judge gives. With "stdin" an exit code given to ``sys.exit`` does not count then, as with LiveCodeBench.
    compare: "lines" (LiveCodeBench): the same lines in the same order, but for white space at their ends and around
        all; a line of numbers by their values. "tokens" (testlib's wcmp): the same words, however spaced.
    tolerance: numbers that are printed, and floats of "calls", may differ by this much, absolutely or relative to the
        expected. Lines are compared by their words then.
    in_place: the function changes its first argument, which is compared in place of its value.
    checker: a program asked instead of comparing, trusted, and confined all the same.
    checker_kind: "function": Python with ``check(given, got, expected) -> bool``: input, output and expected output, or
        arguments, value and expected value. "codeforces": a script of open-r1/codeforces, started with the files of
        input, expected and given output, that prints 1. "testlib": C++, started with input, output and answer, that
        ends with 0; the header testlib.h must be in /usr/include or /usr/local/include.
    """

    function: str | None = None
    language: str = "python"
    prelude: str = ""
    compare: Literal["lines", "tokens"] = "lines"
    tolerance: Decay = 0.0
    in_place: bool = False
    checker: str | None = None
    checker_kind: Literal["function", "codeforces", "testlib"] = "function"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tests(Options):
    """A checked ``tests`` column; ``language`` as ``sandbox.read_language`` gives it."""

    kind: str  # "stdin", "calls" or "asserts"
    cases: tuple[tuple[Any, list[Any]], ...]  # (given, all that is right) of each test; empty for "asserts"
    asserts: str
    limits: sandbox.Limits  # of each run


def read_tests(value: Any) -> Tests:
    """The checked form of a column's entry.

    Raises:
        ValueError: not of the form above; the message names the key.
    """
    tests = {name: entry for name, entry in _as_json(value).items() if entry is not None}
    kinds = [kind for kind in _KINDS if kind in tests]
    if len(kinds) != 1:
        raise ValueError(f"tests: needs one of {', '.join(_KINDS)}; has {', '.join(kinds) or 'none'}")
    kind = kinds[0]
    given = tests.pop(kind)
    limits = {name: tests.pop(name) for name in types_of(sandbox.Limits) if name in tests}
    options = Options(**read_some(Options, tests, "tests"))
    for name, goes_with in _ONLY_WITH.items():
        if name in tests and kind not in goes_with:
            raise ValueError(f"tests: {name!r} does not go with {kind!r}, only with {', '.join(goes_with)}")
    language = sandbox.read_language(options.language)
    if language is None:
        raise ValueError(f"tests: unknown language {options.language!r}; known are Python 3 and C++, under any name")
    if language != "python" and (kind != "stdin" or options.prelude):
        raise ValueError(f"tests: 'calls', 'asserts' and 'prelude' are for python; language is {options.language!r}")
    if kind != "stdin" and not all(part.isidentifier() for part in str(options.function or "").split(".")):
        raise ValueError(f"tests: {kind!r} need a 'function', a name; it is {options.function!r}")
    if kind == "asserts" and ("." in str(options.function) or not isinstance(given, str)):
        raise ValueError(f"tests: 'asserts' must be text, with a plain name as 'function'; it is {options.function!r}")
    cases = () if kind == "asserts" else _cases(given, kind)
    if options.in_place and not all(arguments for arguments, _ in cases):
        raise ValueError("tests: 'in_place' needs at least one of the 'arguments' in each of 'calls'")
    checked: dict[str, Any] = vars(options) | {"language": language}
    return Tests(
        **checked,
        kind=kind,
        cases=cases,
        asserts=given if kind == "asserts" else "",
        limits=read(sandbox.Limits, {"output_kb": 4096} | limits, "tests"),
    )


def check_tests(value: Any) -> None:
    """Checks a column's entry, and that what its program needs is here, before anything long starts.

    Raises:
        ValueError: not of the form above; the message names the key.
        SandboxUnavailable: no working sandbox, or no compiler for a problem in C++.
    """
    tests = read_tests(value)
    sandbox.require("cpp" if tests.checker_kind == "testlib" else tests.language)


def _as_json(value: Any) -> dict[str, Any]:
    try:
        tests = json.loads(value if isinstance(value, str | bytes) else json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"tests: not JSON: {error}") from error
    if not isinstance(tests, dict):
        raise ValueError(f"tests: must be a mapping, is a {type(tests).__name__}")
    return tests


def _cases(cases: Any, kind: str) -> tuple[tuple[Any, list[Any]], ...]:
    given, expected = _KINDS[kind]
    if not isinstance(cases, list) or not cases:
        raise ValueError(f"tests: {kind!r} must be a list of at least one test")
    read = []
    for index, case in enumerate(cases):
        if not isinstance(case, dict) or set(case) not in ({given, expected}, {given, "any_of"}):
            raise ValueError(f"tests: {kind}[{index}] must have the keys {given!r} and {expected!r} (or 'any_of')")
        right = [case[expected]] if expected in case else case["any_of"]
        if not isinstance(right, list) or not right:
            raise ValueError(f"tests: {kind}[{index}]: 'any_of' must be a list of at least one answer")
        if kind == "stdin" and not all(isinstance(text, str) for text in (case[given], *right)):
            raise ValueError(f"tests: {kind}[{index}]: {given!r} and {expected!r} must be text")
        if kind == "calls" and not isinstance(case[given], list):
            raise ValueError(f"tests: {kind}[{index}]: {given!r} must be a list")
        read.append((case[given], right))
    return tuple(read)
