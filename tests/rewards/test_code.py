"""The code reward: a corpus of right and of cheating programs, the column ``tests``, and properties of any input."""

import json
import math
import resource
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r1jax.rewards import calls, code, code_tests, rubric, sandbox
from r1jax.rewards.sandbox import bubblewrap, probe
from tests.rewards.corpus.programs.load import sections
from tests.rewards.corpus.programs.suites import column_of

ROOT = Path(__file__).resolve().parents[2]
PROBLEM = probe.find_problem()
confined = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
HONEST, ATTACKS = sections("honest.txt"), sections("attacks.txt")
SUM = {"stdin": [{"input": "1 2\n", "output": "3\n"}, {"input": "4 5\n", "output": "9\n"}], "cpu_seconds": 2}
RIGHT = "print(sum(map(int, input().split())))"


def respond(source: str, language: str = "python") -> str:
    return f"<think>\nLet me think.\n</think>\nHere it is.\n```{language}\n{source}```\n"


def score(source: str, tests, language: str = "python"):
    (value,) = code.passes_tests(["p"], [respond(source + "\n", language)], [tests])
    return value


@confined
@pytest.mark.parametrize("case", HONEST, ids=lambda case: case.name)
def test_a_right_program_is_paid(case):
    check(case, 1.0)


@confined
@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case.name)
def test_a_cheating_program_is_not_paid(case):
    check(case, 0.0)


def check(case, expected: float) -> None:
    suite, language = case.fields
    if language == "cpp" and shutil.which("g++") is None:
        pytest.skip("no g++")
    assert score(case.source, column_of(suite, language), language) == expected, case.tries


def test_the_corpus_is_as_large_as_promised():
    assert len(HONEST) >= 60
    assert len(ATTACKS) >= 60
    assert {case.fields[1] for case in HONEST} == {"python", "cpp"}


# Where the program is in a response.


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\na\n```", "a\n"),
        ("```python\na\n```\ntext\n```python\nb\n```", "b\n"),
        ("```python\na\n```\n```\noutput\n```", "a\n"),
        ("```\na\n```", "a\n"),
        ("```py\na\n```\n```cpp\nb\n```", "a\n"),
        ("```Python3 title=x\na\n```", "a\n"),
        ("```pypy3\na\n```\n```python2\nb\n```", "a\n"),
        ("~~~python\na\n~~~", "a\n"),
        ("1. So:\n  ```python\n  a\n    b\n\n c\n  ```", "a\n  b\n\nc\n"),
        ("````python\n```\na\n````", "```\na\n"),
        ("```python\n```", ""),
        ("```python\na\n", None),  # cut off
        ("```cpp\na\n```", None),
        ("a = 1", None),
        ("", None),
        ("<think>```python\na\n```</think> so it is", None),
        ("<think>```python\na\n```</think>\n<answer>\n```python\nb\n```\n</answer>", "b\n"),
        ("<think>\n```python\na\n```", None),  # reasoning that never ends
        ("```python\nx = '''\n```\n'''", "x = '''\n"),
    ],
)
def test_the_program_is_the_last_block_of_the_final_part(text, program):
    assert code.find_program(text, language="python") == program


def test_a_thought_that_the_prompt_opened_has_no_program():
    text = "```python\na\n```"
    assert code.find_program(text, language="python", prompt="Do. <think>\n") is None
    assert code.find_program(f"hm</think>{text}", language="python", prompt="Do. <think>\n") == "a\n"


@confined
def test_an_unfinished_thought_is_not_paid():
    program = f"```python\n{RIGHT}\n```"
    assert code.passes_tests(["Add. <think>\n"] * 2, [program, f"</think>{program}"], [SUM] * 2) == [0.0, 1.0]


@pytest.mark.parametrize("tag", ["cpp", "c++", "C++", "cc", "cxx", "c++17", "cpp20", "C++23"])
def test_cpp_has_several_tags(tag):
    assert code.find_program(f"```{tag}\nint x;\n```", language="cpp") == "int x;\n"


# Comparing.


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        ("1\n2\n", "1\n2", True),
        ("1 \t\n2\r\n\n\n", "1\n2\n", True),
        ("", "\n", True),
        ("1\n\n2", "1\n2", False),
        ("1\n2\n3", "1\n2", False),
        ("1", "1\n2", False),
        ("\n 1\n  2", "1\n2", True),
        ("a  b", "a b", False),
        ("A", "a", False),
        ("a\x0bb", "a\nb", False),
        ("1.0  2e3", "1 2000", True),  # a line of numbers, by their values
        ("50000000000000000", "50000000000000001", False),
        ("0.1", "0.10000000001", False),
        ("x 1.0", "x 1", False),
        ("1 2 3", "1 2", False),
        ("nan sNaN", "nan  sNaN", False),
        ("1e99999999999999999999", "1", False),
    ],
)
def test_lines_are_compared_as_by_livecodebench(got, expected, same):
    assert code.same_output(got, expected) is same


@pytest.mark.parametrize(
    ("got", "expected", "options", "same"),
    [
        ("a  b\nc", "a b c\n", {"compare": "tokens"}, True),
        ("a b", "a b c", {"compare": "tokens"}, False),
        ("1.0", "1", {"compare": "tokens"}, False),
        ("1.0000001", "1", {"compare": "tokens", "tolerance": 1e-6}, True),
        ("1.00001", "1", {"compare": "tokens", "tolerance": 1e-6}, False),
        ("yes  0.333333", "yes 0.33333333", {"tolerance": 1e-4}, True),
        ("no 0.333333", "yes 0.33333333", {"tolerance": 1e-4}, False),
        ("1000001", "1000000", {"tolerance": 1e-5}, True),
        ("1\n2", "1 2", {"tolerance": 1e-5}, False),
        ("inf", "1e300", {"tolerance": 0.5}, False),
        ("nan", "1", {"tolerance": 0.5}, False),
        ("sNaN", "1", {"tolerance": 0.5}, False),
    ],
)
def test_output_is_compared_by_words_or_within_a_tolerance(got, expected, options, same):
    assert code.same_output(got, expected, **options) is same


@pytest.mark.parametrize(
    ("got", "expected", "tolerance", "same"),
    [
        (2.0, 2, 0.0, True),
        (0.1 + 0.2, 0.3, 0.0, False),
        (0.1 + 0.2, 0.3, 1e-9, True),
        (True, 1, 0.0, False),
        (1, True, 0.0, False),
        (0, False, 0.0, False),
        (None, None, 0.0, True),
        (0, None, 0.0, False),
        ("1", 1, 0.5, False),
        (math.nan, 1.0, 0.5, False),
        (math.inf, 1e308, 0.5, False),
        ([1, [2]], [1, [2]], 0.0, True),
        ([1, 2], [1], 0.0, False),
        ([1], [1, 2], 0.0, False),
        ({"a": 1}, {"a": 1, "b": 2}, 0.0, False),
        ({"a": [1.0]}, {"a": [1]}, 0.0, True),
        ([], {}, 0.0, False),
        pytest.param(10**400, 1.0, 0.5, False, id="an integer beyond floats"),
        (1.0, math.inf, 0.5, False),
    ],
)
def test_values_are_compared_with_their_kinds(got, expected, tolerance, same):
    assert code.same_json(got, expected, tolerance=tolerance) is same


def test_without_a_sandbox_the_reward_refuses_to_start(tmp_path, monkeypatch):
    probe.find_problem.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    try:
        for call in (
            lambda: code.passes_tests([], [], tests=[]),
            lambda: code.passes_tests(["p"], [respond(RIGHT + "\n")], tests=[SUM]),
            lambda: code_tests.check_tests(SUM),
        ):
            with pytest.raises(sandbox.SandboxUnavailable, match="apt-get install"):
                call()
    finally:
        probe.find_problem.cache_clear()


# Scores.


@confined
def test_none_of_the_tests_columns_means_that_it_does_not_apply():
    assert code.passes_tests(["p", "p"], ["x", respond(RIGHT + "\n")], [None, SUM]) == [None, 1.0]


@confined
def test_a_cut_off_response_has_no_final_program():
    texts = [respond(RIGHT + "\n")] * 2
    assert code.passes_tests(["p"] * 2, texts, [SUM] * 2, stop_reason=["length", "stop"]) == [0.0, 1.0]


@confined
def test_what_is_not_the_programs_fault_is_an_error_and_not_a_score(monkeypatch):
    bad_checker = SUM | {"checker": "def check(given, got, expected): return 1 / 0"}
    broken = {"asserts": "assert missing(f(1))", "function": "g"}
    errors = [score(RIGHT, bad_checker), score("def g(): pass", broken), score(RIGHT, {"stdin": 3})]
    assert [type(error) for error in errors] == [code.VerifierError, code.VerifierError, ValueError]
    monkeypatch.setattr(bubblewrap, "_DEVICES", ("/dev/r1jax-no-such-device",))
    assert isinstance(score(RIGHT, SUM), code.VerifierError)
    calls = {"function": "f", "calls": [{"arguments": [], "expected": 1}]}
    assert isinstance(score("def f(): return 1", calls), code.VerifierError)
    asserts = score("def f(): return 1", {"asserts": "assert f() == 1", "function": "f"})
    assert isinstance(asserts, code.VerifierError) and str(asserts).startswith("the sandbox failed: bwrap")


@confined
def test_an_output_that_the_checker_fails_on_is_wrong():
    checker = SUM | {"checker": "def check(given, got, expected): return int(got) == int(expected)"}
    assert score("print('abc')", checker) == 0.0


@confined
@pytest.mark.parametrize(
    ("source", "asserts"),
    [
        ("import collections\ndef f(x): return collections.Counter(x)", "assert f([1, 1]) == {1: 2}"),
        ("import collections\ndef f(x): return collections.defaultdict(int, {1: [x]})", "assert f(3) == {1: [3]}"),
        (
            "import collections\nP = collections.namedtuple('P', 'a b')\ndef f(x): return [P(x, 2)]",
            "assert f(1) == [(1, 2)]",
        ),
        ("import enum\nclass E(enum.IntEnum): A = 3\ndef f(x): return E.A", "assert f(0) == 3"),
        ("def f(x): return frozenset(x)", "assert f([1]) == {1} and f([]) == set()"),
        ("def f(x): return -float('inf')", "assert f(0) == float('-inf')"),
    ],
)
def test_values_of_subclasses_cross_to_the_assertions(source, asserts):
    assert score(source, {"asserts": asserts, "function": "f"}) == 1.0


@confined
def test_a_value_cannot_say_what_it_equals():
    source = "class E(int):\n    def __eq__(self, other): return True\n    __repr__ = lambda self: '3'\ndef f(x): return E(5)"
    assert score(source, {"asserts": "assert f(0) == 3", "function": "f"}) == 0.0


@confined
def test_the_prelude_runs_before_the_program():
    source = "def f(xs: List[int]) -> int: return twice(xs[0])"
    prelude = {"prelude": "from typing import List\ndef twice(x): return 2 * x", "function": "f"}
    assert score(source, prelude | {"asserts": "assert f([2]) == 4"}) == 1.0
    calls = [{"arguments": [[2]], "expected": 4}]
    assert score(source, prelude | {"calls": calls}) == 1.0
    assert score(source, {"function": "f", "calls": calls}) == 0.0


@confined
def test_the_checker_has_the_limits_of_one_input_for_each():
    checker = """
import time
def check(given, got, expected):
    while time.process_time() < 0.3:
        pass
    return int(got) == int(expected)
"""
    cases = {"stdin": [{"input": f"{i} 1", "output": str(i + 1)} for i in range(5)], "cpu_seconds": 1}
    assert score(RIGHT, cases | {"checker": checker}) == 1.0
    assert score("print(8)", cases | {"checker": checker}) == 0.0


# The judges of published data sets.

PRELUDE = (
    "import sys\nfrom math import *\nfrom collections import *\nfrom typing import *\nsys.setrecursionlimit(50000)\n"
)
ACCEPTED = {
    "values": ("print('  2.0 ')\nprint()", "2\n"),
    "indented": ("print(' *')\nprint('***')", " *\n***\n"),
    "imports": ("print(gcd(4, 6), Counter('aab')['a'])", "2 2"),
    "recursion": ("def f(n): return n and 1 + f(n - 1)\nprint(f(20000))", "20000"),
    "numpy": ("import numpy as np\nprint(np.arange(4).sum())", "6"),
    "sorted": ("from sortedcontainers import SortedList\nprint(SortedList([2, 1])[0])", "1"),
    "main": ("def main():\n    print(input())\nif __name__ == '__main__':\n    main()\n    sys.exit(1)", "5"),
    "future": ("from __future__ import annotations\ndef f(x: Unknown): return x\nprint(f(open(0).read()))", "5"),
}


@confined
@pytest.mark.parametrize("name", ACCEPTED)
def test_what_livecodebench_accepts_is_paid(name):
    source, output = ACCEPTED[name]
    tests = {"stdin": [{"input": "5", "output": output}], "prelude": PRELUDE, "memory_mb": 1024}
    assert score(source, tests) == 1.0
    assert score(source, tests | {"stdin": [{"input": "5", "output": f"{output}9"}]}) == 0.0


@confined
def test_the_check_of_evalplus_runs_with_numpy():
    asserts = """
import numpy as np
from math import inf
def assertion(out, exp, atol):
    exact_match = out == exp
    if not exact_match and atol != 0:
        np.testing.assert_allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert exact_match
inputs = [[[1.0, 2.0]], [[0.1, 0.2]], [[inf, 1.0, "inf"]]]
results = [1.5, 0.15, inf]
for inp, exp in zip(inputs, results):
    assertion(mean(*inp), exp, 1e-6)
assert isinstance(mean([1]), float)
"""
    tests = {"asserts": asserts, "function": "mean"}
    keep = "[x for x in xs if x != 'inf']"
    assert score(f"import numpy as np\ndef mean(xs): return np.mean({keep})", tests) == 1.0
    assert score(f"def mean(xs): return sum({keep}) / len({keep}) + 1e-8", tests) == 1.0
    assert score(f"def mean(xs): return sum({keep}) / len({keep}) + 1e-3", tests) == 0.0


@confined
def test_a_scalar_of_numpy_is_a_number_and_an_array_is_no_list():
    tests = {"function": "f", "calls": [{"arguments": [[1, 2]], "expected": [3, True]}]}
    assert score("import numpy as np\ndef f(xs): return np.sum(xs), np.sum(xs) > 2", tests) == 1.0
    assert score("import numpy as np\ndef f(xs): return np.array([3, 1])", tests) == 0.0


@confined
def test_any_of_several_answers_is_right():
    tests = {"stdin": [{"input": "", "any_of": ["1 2", "2 1"]}]}
    assert [score(f"print('{text}')", tests) for text in ("1 2", "2 1", "1 1")] == [1.0, 1.0, 0.0]
    tests = {"function": "f", "calls": [{"arguments": [3], "any_of": [[1, 2], [2, 1]]}]}
    assert [score(f"def f(n): return {value}", tests) for value in ("[2, 1]", "(1, 2)", "[1]")] == [1.0, 1.0, 0.0]


@confined
def test_what_a_function_changes_in_place_is_seen():
    source = "def f(xs, ys=None): xs.sort()"
    tests = {"function": "f", "in_place": True, "calls": [{"arguments": [[3, 1]], "expected": [1, 3]}]}
    assert score(source, tests) == 1.0
    assert score("def f(xs): return sorted(xs)", tests) == 0.0
    method = "class Solution:\n    def f(self, xs): xs[:] = xs[::-1]"
    assert score(method, tests | {"function": "Solution.f"}) == 1.0
    asserts = "xs, same = [3, 1], {1: [2]}\nassert f(xs, same) is None and xs == [1, 3] and same == {1: [2]}"
    assert score(source, {"function": "f", "asserts": asserts}) == 1.0
    assert score("def f(xs, ys): ys.clear()", {"function": "f", "asserts": asserts}) == 0.0
    assert score("def f(xs, ys): return sorted(xs)", {"function": "f", "asserts": asserts}) == 0.0


@confined
def test_a_tolerance_of_printed_numbers_is_honoured():
    tests = {"stdin": [{"input": "", "output": "0.333333333\n"}]}
    assert score("print(1 / 3)", tests | {"tolerance": 1e-6}) == 1.0
    assert score("print(1 / 3)", tests) == score("print(0.33)", tests | {"tolerance": 1e-6}) == 0.0


TESTLIB = r"""#include <fstream>
#include <iostream>
int main(int count, char** names) {
    std::ifstream input(names[1]), output(names[2]), answer(names[3]);
    int n, got, right;
    if (!(input >> n) || !(answer >> right)) { std::cerr << "FAIL bad answer\n"; return 3; }
    return output >> got && got > n ? 0 : 1;
}
"""
SCRIPT = (
    "import sys\nn, right, got = (int(open(name).read()) for name in sys.argv[1:])\nprint(int(got > n == right - 1))"
)


@confined
@pytest.mark.parametrize(("kind", "checker"), [("testlib", TESTLIB), ("codeforces", SCRIPT)])
def test_checkers_that_read_files_are_asked(kind, checker):
    if kind == "testlib" and shutil.which("g++") is None:
        pytest.skip("no g++")
    tests = {"stdin": [{"input": "3", "output": "4"}], "checker": checker, "checker_kind": kind}
    assert [score(f"print({text})", tests) for text in ("9", "2", "'x'")] == [1.0, 0.0, 0.0]
    broken = tests | {"stdin": [{"input": "3", "output": "?"}]}
    assert isinstance(score("print(9)", broken), code.VerifierError)
    assert isinstance(score("print(9)", tests | {"checker": f"{checker} ("}), code.VerifierError)


@confined
@pytest.mark.parametrize("language", ["cpp20", "GNU C++20 (64)"])
def test_cpp_is_of_the_year_that_is_asked(language):
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    source = "#include <bits/stdc++.h>\nint main() { std::cout << __cplusplus / 100; }"
    tests = {"stdin": [{"input": "", "output": "2020"}], "language": language}
    assert score(source, tests, "cpp") == 1.0


@confined
def test_equal_programs_run_once_and_others_at_the_same_time(monkeypatch):
    runs, both = [], threading.Barrier(2, timeout=10)

    def passes(program, tests):
        runs.append(program)
        both.wait()
        return program == f"{RIGHT}\n"

    monkeypatch.setattr(code, "_passes", passes)
    texts = [respond(RIGHT + "\n"), respond("pass\n"), f"Again.{respond(RIGHT + chr(10))}"]
    assert code.passes_tests(["p"] * 3, texts, [SUM] * 3) == [1.0, 0.0, 1.0]
    assert len(runs) == 2


@confined
def test_a_process_that_is_interrupted_does_not_wait_for_programs():
    script = """
        import os, signal, threading
        from r1jax.rewards import code
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        slow = ["```python\\nimport time; time.sleep(20 + %d)\\n```" % n for n in range(6)]
        code.passes_tests(["p"] * 6, slow, [{"stdin": [{"input": "", "output": ""}], "seconds": 20.0}] * 6)
    """
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, capture_output=True, text=True)
    assert "KeyboardInterrupt" in done.stderr and time.monotonic() - start < 12.0


@confined
def test_a_rubric_counts_a_failing_verifier_and_pays_a_right_program():
    scorer = rubric.Rubric([calls.make_entry(code.passes_tests)])
    scores = scorer.score(["p"] * 3, [respond(RIGHT + "\n")] * 3, {"tests": [SUM, {"stdin": 3}, None]})
    assert scores.total[0] == 1.0
    assert scores.errors == {"passes_tests": 1}


def test_a_program_that_the_task_has_graded_is_not_run_again(monkeypatch):
    runs = []
    monkeypatch.setattr(sandbox, "require", lambda: None)
    monkeypatch.setattr(code, "_passes", lambda program, suite: runs.append(program) or True)
    fenced = respond(RIGHT + "\n")
    summary = fenced.partition("</think>")[2].strip()
    columns = {
        "answer_grader": ["code"] * 4 + ["math"],
        "extracted_answer": [summary, summary, "```python\nprint(8)\n```", RIGHT, summary],
        "answer_grade": [0.0, None, 1.0, 1.0, 1.0],
    }
    scores = code.passes_tests(["p"] * 5, [fenced] * 5, [dict(SUM) for _ in range(5)], **columns)
    # The first has its grade; of the others grading failed, it was of another program, a bare one, by another verifier.
    assert scores == [0.0, 1.0, 1.0, 1.0, 1.0] and len(runs) == 4


@confined
def test_limits_of_the_problem_hold():
    slow = "import time\ntime.sleep(30)\n" + RIGHT
    start = time.monotonic()
    assert score(slow, SUM | {"seconds": 0.3}) == 0.0
    assert time.monotonic() - start < 15.0
    assert score("x = bytearray(200 << 20)\n" + RIGHT, SUM | {"memory_mb": 64}) == 0.0
    assert score("x = bytearray(200 << 20)\n" + RIGHT, SUM | {"memory_mb": 400}) == 1.0
    assert score("print('x' * 5000)", {"stdin": [{"input": "", "output": "x" * 5000}], "output_kb": 4}) == 0.0
    assert score("print('x' * 5000)", {"stdin": [{"input": "", "output": "x" * 5000}], "output_kb": 5}) == 1.0


@confined
def test_all_tests_must_pass():
    hundred = {"stdin": [{"input": f"{i} 1\n", "output": f"{i + 1}\n"} for i in range(20)], "cpu_seconds": 2}
    assert score(RIGHT, hundred) == 1.0
    assert score("a, b = map(int, input().split())\nprint(a + b + (a == 19))", hundred) == 0.0


# Any input: the reward neither raises nor hangs nor leaves its range.

ANY_TEXT = st.text(st.characters(codec=None), max_size=200)
QUIET = {"cpu_seconds": 1, "seconds": 30.0, "output_kb": 8, "memory_mb": 128}
PIECES = st.sampled_from(
    [
        "print(",
        "input()",
        "3",
        "\n",
        " ",
        "import os",
        ")",
        "'",
        '"',
        "while 1: pass",
        "def f(",
        "```",
        "\0",
        "\ud800",
        "é",
        "\\",
    ]
)


@confined
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.one_of(ANY_TEXT, st.lists(PIECES, max_size=8).map("".join)), fenced=st.booleans(), calls=st.booleans())
def test_no_response_makes_the_reward_fail(text, fenced, calls):
    tests = {"function": "f", "calls": [{"arguments": [1], "expected": [1]}]} if calls else {"stdin": SUM["stdin"]}
    completion = f"```python\n{text}\n```" if fenced else text
    (value,) = code.passes_tests(["p"], [completion], [tests | QUIET])
    assert value in (0.0, 1.0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(
    text=ANY_TEXT | st.lists(PIECES | st.sampled_from(["```python\n", "\n```\n", "</think>", "<think>"])).map("".join)
)
def test_any_text_has_a_program_or_none(text):
    for language in ("python", "cpp"):
        program = code.find_program(text, language=language)
        assert program is None or program in text + "\n"


@settings(max_examples=200, deadline=None)
@given(value=JSON)
def test_a_value_equals_its_copy_and_not_a_list_of_itself(value):
    text = json.dumps(value)
    assert code.same_json(json.loads(text), value) or "NaN" in text
    assert not code.same_json([value], value)


def test_a_long_response_of_fences_is_read_in_linear_time():
    start = time.process_time()
    for text in ("`" * 10**6, "```\n" * 10**5, "```python\n" * 10**5, " " * 10**6 + "```", "~" * 10**5 + "`" * 10**5):
        code.find_program(text, language="python")
    assert time.process_time() - start < 5.0


# Load: many at once give what each gives alone.


@pytest.mark.slow
@confined
def test_five_hundred_programs_at_once_differ_in_nothing_from_one_alone():
    cases = [case for case in (*HONEST, *ATTACKS) if case.fields[1] == "python"]
    rows = [(respond(case.source), column_of(*case.fields), float(case in HONEST)) for case in cases]
    rows = (rows * (500 // len(rows) + 1))[:500]
    rows = [(text.replace("```python\n", f"```python\n# {i}\n"), *row) for i, (text, *row) in enumerate(rows)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    scores = code.passes_tests(["p"] * 500, [row[0] for row in rows], [row[1] for row in rows])
    seconds = time.process_time() - start
    assert scores == [row[2] for row in rows]
    growth_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert growth_mb < 100.0
    print(f"500 programs in {seconds:.1f} s, {500 / seconds:.1f} a second, peak memory grew by {growth_mb:.1f} MB")
