"""Problems of the program corpus, as the column ``tests`` holds them: each kind of test, with and without a checker."""

import json
from typing import Any

_PAIR_CHECKER = """
def check(given, got, expected):
    numbers = got.split()
    return len(numbers) == 2 and all(n.isdecimal() and int(n) > 0 for n in numbers) and sum(map(int, numbers)) == int(given)
"""
_ROOT_CHECKER = """
import math
def check(given, got, expected):
    try:
        return math.isclose(float(got), float(expected), rel_tol=1e-6)
    except ValueError:
        return False
"""
_COMMON = {"cpu_seconds": 2, "memory_mb": 256, "output_kb": 256}

SUITES: dict[str, dict[str, Any]] = {
    # n, then n numbers: their sum
    "sum": {
        "stdin": [
            {"input": "3\n1 2 3\n", "output": "6\n"},
            {"input": "1\n-5\n", "output": "-5"},
            {"input": "1000\n" + " ".join(map(str, range(1000))) + "\n", "output": "499500\n"},
        ]
    },
    # each word on a line of its own, reversed; then a line of dashes
    "words": {
        "stdin": [
            {"input": "ab cd\n", "output": "ba\ndc\n--\n"},
            {"input": "x\n", "output": "x\n--"},
            {"input": "één twee\n", "output": "néé\neewt\n--\n"},
        ]
    },
    # any two positive numbers with a given sum
    "pair": {"stdin": [{"input": f"{n}\n", "output": ""} for n in (2, 7, 10**12)], "checker": _PAIR_CHECKER},
    # a square root, to a relative error of 1e-6
    "root": {
        "stdin": [{"input": "2\n", "output": "1.41421356237"}, {"input": "1e6\n", "output": "1000"}],
        "checker": _ROOT_CHECKER,
    },
    "sort": {
        "function": "sort_list",
        "calls": [
            {"arguments": [[3, 1, 2]], "expected": [1, 2, 3]},
            {"arguments": [[]], "expected": []},
            {"arguments": [[5, -1, 5, 0]], "expected": [-1, 0, 5, 5]},
        ],
    },
    "two_sum": {
        "function": "Solution.twoSum",
        "calls": [
            {"arguments": [[2, 7, 11, 15], 9], "expected": [0, 1]},
            {"arguments": [[3, 2, 4], 6], "expected": [1, 2]},
        ],
    },
    "mean": {
        "function": "mean",
        "tolerance": 1e-6,
        "calls": [{"arguments": [[0.1, 0.2, 0.3]], "expected": 0.2}, {"arguments": [[1, 2]], "expected": 1.5}],
    },
    # a palindrome or not, and what it is made of
    "describe": {
        "function": "describe",
        "calls": [
            {"arguments": ["abba"], "expected": {"palindrome": True, "counts": {"a": 2, "b": 2}, "first": "a"}},
            {"arguments": ["ab"], "expected": {"palindrome": False, "counts": {"a": 1, "b": 1}, "first": "a"}},
            {"arguments": [""], "expected": {"palindrome": True, "counts": {}, "first": None}},
        ],
    },
    # any number that divides; a checker for calls
    "divisor": {
        "function": "divisor",
        "calls": [{"arguments": [n], "expected": None} for n in (15, 49, 1001)],
        "checker": "def check(given, got, expected):\n    return isinstance(got, int) and 1 < got < given[0] and given[0] % got == 0",
    },
    # HumanEval's form
    "fibonacci": {
        "function": "fib",
        "asserts": "def check(candidate):\n    assert candidate(10) == 55\n    assert candidate(1) == 1\n"
        "    assert candidate(8) == 21\n    assert candidate(60) == 1548008755920\ncheck(fib)\n",
    },
    # MBPP's form, with tuples, sets and an error that is asked for
    "common": {
        "function": "common",
        "asserts": "assert common((1, 2, 3), (2, 3, 4)) == (2, 3)\nassert set(common((5,), (6,))) == set()\n"
        "try:\n    common(None, (1,))\nexcept TypeError:\n    pass\nelse:\n    raise AssertionError\n",
    },
    # assertions over iterators of the function
    "is_even": {
        "function": "is_even",
        "asserts": "assert all(map(is_even, [2, 4]))\nassert not any(map(is_even, [1, 3]))\n",
    },
}
SUITES = {name: _COMMON | suite for name, suite in SUITES.items()}


def column_of(suite: str, language: str) -> str:
    """The column's entry, as JSON text."""
    return json.dumps(SUITES[suite] | {"language": language})
