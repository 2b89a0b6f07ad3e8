"""The column ``tests`` of a programming problem: its form, checked.

A mapping, or the JSON text of one, with one of

- ``"stdin"``: list of ``{"input": text, "output": text}``: the program reads one and must print the other.
- ``"calls"``: list of ``{"arguments": [value, ...], "expected": value}`` with ``"function"``: "name", or "Class.method"
  of an instance made anew for each call. Python only. Values are JSON's: a tuple counts as a list, a scalar of numpy as a
  number, 2.0 equals 2, true does not equal 1.
- ``"asserts"``: text of a Python program with ``"function"``, whose name it calls as it likes: the ``check`` of HumanEval
  and EvalPlus, MBPP's assertions. Python only. Arguments and values are literals (numbers, text, lists, tuples, dicts,
  sets, None); a value of a subclass counts as what it is a kind of, a ``Counter`` as a dict. What the function changes in
  its arguments is seen; a StopIteration that it raises comes as a RuntimeError.

Where several answers are right, ``"any_of": [...]`` stands for a test's "output" or "expected".

Further keys, where wanted:

- ``"language"``: Python 3 (default) or C++, as data sets name them: "pypy3", "cpp17", "GNU C++20 (64)"
  (``sandbox.read_language``).
- ``"prelude"``: text of a Python program that runs before the program, in the same module: the imports and helpers that the
  problem or its judge gives. With "stdin" an exit code that the program gives to ``sys.exit`` does not count then, as with
  LiveCodeBench.
- ``"compare"``: of "stdin", "lines" (default; LiveCodeBench): the same lines in the same order, but for white space at their
  ends and around all; a line of numbers by their values. Or "tokens" (testlib's wcmp): the same words, however spaced.
- ``"tolerance"``: numbers of "stdin" and floats of "calls" may differ by this much, absolutely or relative to the expected
  (default 0). Lines are compared by their words then.
- ``"in_place"``: true where a function of "calls" changes its first argument, which is compared in place of its value.
- ``"checker"``: a program asked instead of comparing, trusted, and confined all the same; ``"checker_kind"`` says what it is:
  "function" (default), Python with ``check(given, got, expected) -> bool``: input, output and expected output, or arguments,
  value and expected value; "codeforces", a script of open-r1/codeforces, started with the files of input, expected and
  given output, that prints 1; "testlib", C++, started with input, output and answer, that ends with 0. The header testlib.h
  must be in /usr/include or /usr/local/include.
- ``"cpu_seconds"``: whole CPU seconds for each input, or for all calls together (default 10).
- ``"seconds"``: wall seconds likewise; by default the sandbox's.
- ``"memory_mb"`` (default 512), ``"output_kb"`` (default 4096).
"""

import dataclasses
import json
from typing import Any

from r1jax.rewards import sandbox

_KINDS = {"stdin": ("input", "output"), "calls": ("arguments", "expected"), "asserts": ()}
_LIMITS = ("cpu_seconds", "seconds", "memory_mb", "output_kb")
# Key -> its type, the kinds of tests that it goes with, its default and, where they are few, its values.
_OPTIONS: dict[str, tuple[type, tuple[str, ...], Any, tuple[str, ...]]] = {
    "function": (str, ("calls", "asserts"), None, ()),
    "language": (str, tuple(_KINDS), "python", ()),
    "prelude": (str, tuple(_KINDS), "", ()),
    "compare": (str, ("stdin",), "lines", ("lines", "tokens")),
    "tolerance": (float, ("stdin", "calls"), 0.0, ()),
    "in_place": (bool, ("calls",), False, ()),
    "checker": (str, ("stdin", "calls"), None, ()),
    "checker_kind": (str, ("stdin", "calls"), "function", ("function", "codeforces", "testlib")),
    **{name: (float, tuple(_KINDS), 4096 if name == "output_kb" else None, ()) for name in _LIMITS},
}


@dataclasses.dataclass(frozen=True)
class Tests:
    """A checked ``tests`` column; names as in the form above."""

    kind: str  # "stdin", "calls" or "asserts"
    cases: tuple[tuple[Any, list[Any]], ...]  # (given, all that is right) of each test; empty for "asserts"
    asserts: str | None
    function: str | None
    language: str  # as ``sandbox.read_language`` gives it
    prelude: str
    compare: str
    tolerance: float
    in_place: bool
    checker: str | None
    checker_kind: str
    limits: sandbox.Limits  # of each run


def read_tests(value: Any) -> Tests:
    """The checked form of a column's entry.

    Raises:
        ValueError: not of the form above; the message names the key.
    """
    tests = _as_json(value)
    unknown = sorted(set(tests) - {*_KINDS, *_OPTIONS})
    if unknown:
        raise ValueError(f"tests: unknown key {', '.join(unknown)}; known are {', '.join((*_KINDS, *_OPTIONS))}")
    kinds = [kind for kind in _KINDS if tests.get(kind) is not None]
    if len(kinds) != 1:
        raise ValueError(f"tests: needs one of {', '.join(_KINDS)}; has {', '.join(kinds) or 'none'}")
    kind = kinds[0]
    options = {name: _option(tests, name, kind) for name in _OPTIONS}
    function, tolerance = options["function"], options["tolerance"]
    language = sandbox.read_language(options["language"])
    if language is None:
        raise ValueError(f"tests: unknown language {options['language']!r}; known are Python 3 and C++, under any name")
    if language != "python" and (kind != "stdin" or options["prelude"]):
        raise ValueError(f"tests: 'calls', 'asserts' and 'prelude' are for python; language is {options['language']!r}")
    if kind != "stdin" and not all(part.isidentifier() for part in str(function or "").split(".")):
        raise ValueError(f"tests: {kind!r} need a 'function', a name; it is {function!r}")
    if kind == "asserts" and "." in str(function):
        raise ValueError(f"tests: 'function' {function!r} of 'asserts' must be a plain name")
    if not 0.0 <= tolerance < 1.0:
        raise ValueError(f"tests: tolerance is {tolerance!r}; must be in [0, 1)")
    if kind == "calls" and options["checker_kind"] != "function":
        raise ValueError(f"tests: a checker of kind {options['checker_kind']!r} does not go with 'calls'")
    if kind == "asserts" and not isinstance(tests["asserts"], str):
        raise ValueError(f"tests: 'asserts' must be text, is {tests['asserts']!r}")
    cases = () if kind == "asserts" else _cases(tests[kind], kind)
    if options["in_place"] and not all(given for given, _ in cases):
        raise ValueError("tests: 'in_place' needs at least one of the 'arguments' in each of 'calls'")
    options["language"] = language
    limits = {name: limit for name in _LIMITS if (limit := options.pop(name)) is not None}
    return Tests(
        kind,
        cases=cases,
        asserts=tests.get("asserts"),
        limits=sandbox.Limits(**limits),
        **options,
    )


def check_tests(value: Any) -> None:
    """Checks a column's entry, and that what its program needs is here, before anything long starts.

    Raises:
        ValueError: not of the form above; the message names the key.
        SandboxUnavailable: no working sandbox, or no compiler for a problem in C++.
    """
    tests = read_tests(value)
    sandbox.require("cpp" if tests.checker_kind == "testlib" else tests.language)


def _option(tests: dict[str, Any], name: str, kind: str) -> Any:
    wanted, goes_with, default, known = _OPTIONS[name]
    value = tests.get(name)
    if value is None or (value == "" and name == "prelude"):
        return default
    if kind not in goes_with:
        raise ValueError(f"tests: {name!r} does not go with {kind!r}, only with {', '.join(goes_with)}")
    if wanted is not float and not isinstance(value, wanted):
        raise ValueError(f"tests: {name!r} must be {'text' if wanted is str else 'true or false'}, is {value!r}")
    if wanted is float and (not isinstance(value, int | float) or isinstance(value, bool)):
        raise ValueError(f"tests: {name!r} must be a number, is {value!r}")
    if known and value not in known:
        raise ValueError(f"tests: {name!r} is {value!r}; must be one of {', '.join(known)}")
    return value


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
