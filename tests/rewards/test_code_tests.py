"""The column ``tests``: what is wrong with one is said by name, and no other value gets through."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.rewards import code_tests
from r1jax.rewards.sandbox import probe

SUM = {"stdin": [{"input": "1 2\n", "output": "3\n"}]}


@pytest.mark.parametrize(
    ("tests", "words"),
    [
        (3, "must be a mapping, is a int"),
        ("{", "not JSON"),
        ({"stdin": {1, 2}}, "not JSON"),
        ({}, "needs one of stdin, calls, asserts; has none"),
        ({"stdin": [], "calls": []}, "has stdin, calls"),
        ({"stdin": []}, "at least one test"),
        ({"stdin": [{"input": "1"}]}, r"stdin\[0\] must have the keys 'input' and 'output'"),
        ({"stdin": [{"input": 1, "output": "1"}]}, r"stdin\[0\].*must be text"),
        ({"stdin": [{"input": "1", "output": "1"}], "function": "f"}, "'function' does not go with 'stdin'"),
        ({"calls": [{"arguments": [], "expected": 1}]}, "'calls' need a 'function'"),
        ({"calls": [{"arguments": 1, "expected": 1}], "function": "f"}, "'arguments' must be a list"),
        ({"calls": [{"arguments": [], "expected": 1}], "function": "f()"}, "it is 'f\\(\\)'"),
        (
            {"calls": [{"arguments": [], "expected": 1}], "function": "f", "language": "cpp"},
            "'calls', .*are for python",
        ),
        (SUM | {"language": "cpp", "prelude": "import math"}, "'prelude' are for python"),
        (SUM | {"in_place": True}, "'in_place' does not go with 'stdin'"),
        (
            {"calls": [{"arguments": [], "expected": 1}], "function": "f", "in_place": True},
            "'in_place' needs at least one",
        ),
        (
            {"calls": [{"arguments": [], "expected": 1}], "function": "f", "in_place": 1},
            "tests.in_place=1 must be True or False",
        ),
        (SUM | {"compare": "words"}, "tests.compare='words' must be one of 'lines', 'tokens'"),
        (SUM | {"checker": "", "checker_kind": "c"}, "tests.checker_kind='c' must be one of"),
        ({"calls": [], "function": "f", "checker_kind": "testlib"}, "'checker_kind' does not go with 'calls'"),
        ({"stdin": [{"input": "1", "any_of": []}]}, r"stdin\[0\]: 'any_of' must be a list of at least one"),
        ({"stdin": [{"input": "1", "any_of": ["1", 2]}]}, r"stdin\[0\].*must be text"),
        ({"asserts": 3, "function": "f"}, "'asserts' must be text"),
        ({"asserts": "f()", "function": "f", "tolerance": 0.1}, "'tolerance' does not go with 'asserts'"),
        ({"asserts": "f()", "function": "A.f"}, "with a plain name as 'function'"),
        ({"asserts": "f()", "function": "f", "checker": ""}, "'checker' does not go with 'asserts'"),
        (SUM | {"language": "rust"}, "unknown language 'rust'"),
        (SUM | {"timeout": 3}, "there is no key 'tests.timeout'"),
        (SUM | {"tolerance": 2}, "tests.tolerance=2"),
        (SUM | {"cpu_seconds": 0}, "tests.cpu_seconds=0 must be at least 1"),
        (SUM | {"cpu_seconds": "3"}, "tests.cpu_seconds='3' must be a whole number"),
        (SUM | {"output_kb": -1}, "tests.output_kb=-1 must be at least 1"),
        (SUM | {"checker": 3}, "tests.checker=3 must be a text"),
    ],
)
def test_a_bad_column_names_its_fault(tests, words):
    with pytest.raises(ValueError, match=words):
        code_tests.read_tests(tests)


def test_a_bad_entry_is_named_before_anything_is_run():
    with pytest.raises(ValueError, match="tests: needs one of"):
        code_tests.check_tests({})


@pytest.mark.skipif(probe.find_problem() is not None, reason=str(probe.find_problem()))
def test_a_good_entry_passes_the_check():
    for tests in (SUM, json.dumps(SUM)):
        code_tests.check_tests(tests)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*code_tests._KINDS, *code_tests._ONLY_WITH, "language", "seconds", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(value=JSON | st.text(max_size=20) | st.binary(max_size=20))
def test_any_column_is_read_or_refused(value):
    try:
        assert isinstance(code_tests.read_tests(value), code_tests.Tests)
    except ValueError as error:
        assert str(error)
