"""The code reward: a corpus of right and of cheating programs, the column ``tests``, and properties of any input."""

import json
import math
import resource
import shutil
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r1jax.rewards import calls, code, code_tests, rubric, sandbox
from r1jax.rewards.sandbox import bubblewrap, probe
from tests.rewards.corpus.programs.load import sections
from tests.rewards.corpus.programs.suites import column_of

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


@pytest.mark.parametrize("tag", ["cpp", "c++", "C++", "cc", "cxx", "c++17"])
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
        ("\n1", "1", False),
        (" 1", "1", False),
        ("1  2", "1 2", False),
        ("a\x0bb", "a\nb", False),
        ("1.0", "1", False),
    ],
)
def test_output_is_compared_in_full(got, expected, same):
    assert code.same_output(got, expected) is same


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
    scores = code.passes_tests(["p"] * 5, [fenced] * 5, [SUM] * 5, **columns)
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
    for language in sandbox.PROGRAM_LANGUAGES:
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
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    scores = code.passes_tests(["p"] * 500, [row[0] for row in rows], [row[1] for row in rows])
    seconds = time.process_time() - start
    assert scores == [row[2] for row in rows]
    growth_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert growth_mb < 100.0
    print(f"500 programs in {seconds:.1f} s, {500 / seconds:.1f} a second, peak memory grew by {growth_mb:.1f} MB")
