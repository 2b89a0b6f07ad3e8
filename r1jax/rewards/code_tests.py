"""The column ``tests`` of a programming problem: its form, checked.

A mapping, or the JSON text of one, with one of

- ``"stdin"``: list of ``{"input": text, "output": text}``: the program reads one and must print the other. Compared in
  full: the same lines in the same order, tolerant only to white space at the ends of lines and to empty lines at the end.
- ``"calls"``: list of ``{"arguments": [value, ...], "expected": value}`` with ``"function"``: "name", or "Class.method"
  of an instance made anew for each call. Python only. Values are JSON's: a tuple counts as a list, 2.0 equals 2, true
  does not equal 1.
- ``"asserts"``: text of a Python program with ``"function"``, whose name it calls as it likes: HumanEval's ``check``,
  MBPP's assertions. Python only. Arguments and values are literals (numbers, text, lists, tuples, dicts, sets, None);
  a value of a subclass counts as what it is a kind of, a ``Counter`` as a dict.

and, where wanted,

- ``"language"``: "python" (default) or "cpp".
- ``"prelude"``: text of a Python program that runs before one with a "function", in the same module: the imports and
  helpers that the problem gives.
- ``"checker"``: text of a Python program with ``check(given, got, expected) -> bool``, asked instead of comparing: input,
  output and expected output, or arguments, value and expected value. It is trusted, and confined all the same.
- ``"tolerance"``: floats of "calls" may differ by this much, absolutely or relative to the expected (default 0).
- ``"cpu_seconds"``: whole CPU seconds for each input, or for all calls together (default 10).
- ``"seconds"``: wall seconds likewise; by default the sandbox's.
- ``"memory_mb"`` (default 512), ``"output_kb"`` (default 4096).
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from r1jax.rewards import sandbox

_KINDS = ("stdin", "calls", "asserts")
_LIMITS = ("cpu_seconds", "seconds", "memory_mb", "output_kb")
_KEYS = {*_KINDS, "function", "language", "prelude", "checker", "tolerance", *_LIMITS}


@dataclasses.dataclass(frozen=True)
class Tests:
    """A checked ``tests`` column; names as in the form above."""

    kind: str  # "stdin", "calls" or "asserts"
    cases: tuple[tuple[Any, Any], ...]  # (given, expected) of each test; empty for "asserts"
    asserts: str | None
    function: str | None
    language: str
    prelude: str
    checker: str | None
    tolerance: float
    limits: sandbox.Limits  # of each run


def read_tests(value: Any) -> Tests:
    """The checked form of a column's entry.

    Raises:
        ValueError: not of the form above; the message names the key.
    """
    tests = _as_json(value)
    unknown = sorted(set(tests) - _KEYS)
    if unknown:
        raise ValueError(f"tests: unknown key {', '.join(unknown)}; known are {', '.join(sorted(_KEYS))}")
    kinds = [kind for kind in _KINDS if tests.get(kind) is not None]
    if len(kinds) != 1:
        raise ValueError(f"tests: needs one of {', '.join(_KINDS)}; has {', '.join(kinds) or 'none'}")
    kind = kinds[0]
    language = _text(tests, "language") or "python"
    if language not in sandbox.PROGRAM_LANGUAGES:
        raise ValueError(f"tests: unknown language {language!r}; known are {', '.join(sandbox.PROGRAM_LANGUAGES)}")
    if kind != "stdin" and language != "python":
        raise ValueError(f"tests: {kind!r} are for python; language is {language!r}")
    function = _text(tests, "function")
    if (kind == "stdin") is not (function is None):
        raise ValueError("tests: 'function' goes with 'calls' and 'asserts', which need it, and not with 'stdin'")
    if function is not None and not all(part.isidentifier() for part in function.split(".")):
        raise ValueError(f"tests: 'function' {function!r} is not a name")
    if kind == "asserts" and "." in str(function):
        raise ValueError(f"tests: 'function' {function!r} of 'asserts' must be a plain name")
    prelude = _text(tests, "prelude") or ""
    if prelude and kind == "stdin":
        raise ValueError("tests: 'prelude' does not go with 'stdin'")
    checker = _text(tests, "checker")
    if kind == "asserts" and checker is not None:
        raise ValueError("tests: 'checker' does not go with 'asserts'")
    tolerance = tests.get("tolerance") or 0.0
    if not _is_number(tolerance) or not 0.0 <= tolerance < 1.0:
        raise ValueError(f"tests: tolerance is {tolerance!r}; must be in [0, 1)")
    given = {name: tests[name] for name in _LIMITS[:-1] if tests.get(name) is not None}
    if not all(map(_is_number, given.values())):
        raise ValueError(f"tests: limits must be numbers; got {given}")
    return Tests(
        kind=kind,
        cases=() if kind == "asserts" else _cases(tests[kind], kind),
        asserts=_text(tests, "asserts"),
        function=function,
        language=language,
        prelude=prelude,
        checker=checker,
        tolerance=float(tolerance),
        limits=sandbox.Limits(output_kb=tests.get("output_kb") or 4096, **given),
    )


def check_tests(value: Any) -> None:
    """Checks a column's entry, and that what its program needs is here, before anything long starts.

    Raises:
        ValueError: not of the form above; the message names the key.
        SandboxUnavailable: no working sandbox, or no compiler for a problem in C++.
    """
    sandbox.require(read_tests(value).language)


def _as_json(value: Any) -> dict[str, Any]:
    try:
        tests = json.loads(value if isinstance(value, str | bytes) else json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"tests: not JSON: {error}") from error
    if not isinstance(tests, dict):
        raise ValueError(f"tests: must be a mapping, is a {type(tests).__name__}")
    return tests


def _cases(cases: Any, kind: str) -> tuple[tuple[Any, Any], ...]:
    given, expected = ("input", "output") if kind == "stdin" else ("arguments", "expected")
    if not isinstance(cases, list) or not cases:
        raise ValueError(f"tests: {kind!r} must be a list of at least one test")
    for index, case in enumerate(cases):
        if not isinstance(case, dict) or set(case) != {given, expected}:
            raise ValueError(f"tests: {kind}[{index}] must have the keys {given!r} and {expected!r}")
        if kind == "stdin" and not (isinstance(case[given], str) and isinstance(case[expected], str)):
            raise ValueError(f"tests: {kind}[{index}]: {given!r} and {expected!r} must be text")
        if kind == "calls" and not isinstance(case[given], list):
            raise ValueError(f"tests: {kind}[{index}]: {given!r} must be a list")
    return tuple((case[given], case[expected]) for case in cases)


def _text(tests: Mapping[str, Any], name: str) -> str | None:
    value = tests.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"tests: {name!r} must be text, is {value!r}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
