"""Small files in the published schemas, with problems of our own; each mapping's tests must be readable by the reward."""

import json

import pytest

from r1jax.rewards.code_tests import read_tests
from r1jax.tasks.sources.fields import fields_of
from r1jax.tasks.sources.rows import Row
from tests.tasks.sources.code_rows import CODEFORCES, FUNCTIONAL, LIVECODEBENCH

HUMANEVAL = {
    "task_id": "HumanEval/900",
    "prompt": 'import math\n\n\ndef half(x):\n    return x / 2\n\n\ndef quarter(x: float) -> float:\n    """A quarter."""\n',
    "entry_point": "quarter",
    "canonical_solution": "    return half(half(x))\n",
    "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert math.isclose(candidate(2), half(1))\n",
}
MBPP = {
    "task_id": 900,
    "text": "Write a function to double a number.",
    "code": "def twice(n):\r\n  return 2 * n",
    "test_list": ["assert twice(2) == 4", "assert twice(0) == abs(0)"],
    "test_setup_code": "",
    "challenge_test_list": ["assert twice(-1) == -2"],
}
SANITIZED = {
    "source_file": "own.json",
    "task_id": 901,
    "prompt": "Write a function to halve a number.",
    "code": "def halve(n):\n  return n / 2",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(halve(2), 1)"],
}


def mapped(dataset, values):
    fields, row = fields_of(dataset), Row(values, where="F, row 1")
    answer, columns = fields.target(row)
    assert answer == ""
    tests = columns["tests"]
    assert json.loads(json.dumps(tests)) == tests
    read_tests(tests)
    return fields.question(row), tests


def test_humaneval_puts_helpers_before_the_check_and_leaves_the_function_out():
    question, tests = mapped("humaneval", HUMANEVAL)
    assert question == HUMANEVAL["prompt"].rstrip()
    assert tests["function"] == "quarter"
    assert tests["asserts"].startswith("import math\n\ndef half(x):\n    return x / 2\n\n")
    assert tests["asserts"].endswith("check(quarter)")
    assert "def quarter" not in tests["asserts"]
    assert tests["prelude"] == "import math\n\ndef half(x):\n    return x / 2"


def test_mbpp_in_both_forms():
    question, tests = mapped("mbpp", MBPP)
    assert question.startswith(
        "Write a function to double a number.\n\nThe program must pass these tests:\n\nassert tw"
    )
    assert "-2" not in question
    assert tests == {
        "asserts": "\nassert twice(2) == 4\nassert twice(0) == abs(0)\nassert twice(-1) == -2",
        "function": "twice",
    }
    _, tests = mapped("mbpp", SANITIZED)
    assert tests == {"asserts": "import math\n\nassert math.isclose(halve(2), 1)", "function": "halve"}
    assert mapped("mbpp", {**SANITIZED, "test": "assert halve(4) == 2"})[1]["asserts"] == "assert halve(4) == 2"
    pair = {**MBPP, "code": "class Pair: ...\ndef twice(n): ...", "test_list": ["assert twice(Pair()) == 4"]}
    assert fields_of("mbpp").skip(Row(pair, where="F")) == "whose tests do not call one function of the solution"
    assert fields_of("mbpp").skip(Row(MBPP, where="F")) is None


def test_livecodebench_programs():
    question, tests = mapped("livecodebench", LIVECODEBENCH)
    assert question.endswith("reads from standard input and writes to standard output.")
    assert "from heapq import *\n" in tests["prelude"]
    assert tests == {
        "stdin": [{"input": "1 2\n", "output": "3\n"}, {"input": "5 5\n", "output": "10\n"}],
        "prelude": tests["prelude"],
        "cpu_seconds": 6,
        "memory_mb": 1024,
    }


def test_livecodebench_functions():
    question, tests = mapped("livecodebench", FUNCTIONAL)
    prelude = tests.pop("prelude")
    assert "from typing import *\n" in prelude and "from heapq import *\n" in prelude
    assert "The program completes this code:\n\n```python\nclass Solution:" in question
    assert tests == {
        "calls": [{"arguments": [[1, 2], 3], "expected": [4, 5]}, {"arguments": [[], 0], "expected": []}],
        "function": "Solution.add",
        "cpu_seconds": 12,
        "memory_mb": 1024,
    }


def test_codeforces():
    question, tests = mapped("codeforces", CODEFORCES)
    assert question == (
        "# Own problem\n\nPrint any number above n.\n\n## Input\nA number n.\n\n## Output\nA number.\n\n"
        "## Example\nInput:\n1\nOutput:\n2\n\nTime limit: 1.5 s. Memory limit: 256.0 MB."
    )
    checker = {"checker": CODEFORCES["generated_checker"], "checker_kind": "codeforces"}
    plain = {"stdin": CODEFORCES["official_tests"], "compare": "tokens", "cpu_seconds": 2, "memory_mb": 256}
    assert tests == plain | checker
    assert mapped("codeforces", {**CODEFORCES, "generated_checker": None})[1] == plain
    cpp = {"checker": '#include "testlib.h"\nint main() {}', "checker_kind": "testlib"}
    assert mapped("codeforces", {**CODEFORCES, "generated_checker": cpp["checker"]})[1] == plain | cpp


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"interaction_format": "Ask."}, "interactive"),
        ({"input_mode": "file"}, "reading and writing files"),
        ({"executable": False}, "not executable"),
        ({"description": None}, "without a description"),
        ({"testset_size": 0}, "without tests"),
        ({"official_tests_complete": False}, "with some of their tests only"),
    ],
)
def test_codeforces_problems_that_cannot_be_judged_are_left_out(change, reason):
    assert fields_of("codeforces").skip(Row({**CODEFORCES, **change}, where="F")) == reason


@pytest.mark.parametrize(
    ("dataset", "values", "message"),
    [
        ("humaneval", {**HUMANEVAL, "prompt": "def f(:"}, "field 'prompt' must be Python"),
        ("humaneval", {**HUMANEVAL, "test": None}, "field 'test' is missing"),
        ("livecodebench", {**FUNCTIONAL, "metadata": "{}"}, "field 'metadata' must name the function"),
        (
            "livecodebench",
            {**LIVECODEBENCH, "private_test_cases": "gASVBg=="},
            "F, row 1: field 'private_test_cases' cannot be read: neither JSON nor base64",
        ),
        (
            "livecodebench",
            {**LIVECODEBENCH, "private_test_cases": FUNCTIONAL["private_test_cases"]},
            r"must be of one type; they are \['functional', 'stdin'\]",
        ),
        ("codeforces", {**CODEFORCES, "official_tests": []}, "field 'official_tests' must be a list of at least one"),
        ("codeforces", {**CODEFORCES, "official_tests": [{"input": "1"}]}, "field 'official_tests' must be a list"),
    ],
)
def test_rows_not_as_published_are_refused(dataset, values, message):
    with pytest.raises(ValueError, match=message):
        mapped(dataset, values)
