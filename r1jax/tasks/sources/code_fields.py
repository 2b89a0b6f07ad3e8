r"""Programming problems: from the published fields to the question and the column "tests" of the code reward.

    humaneval      task_id, prompt, entry_point, canonical_solution, test
    mbpp           text, code, test_list, test_setup_code, challenge_test_list; "sanitized": prompt, code, test_imports,
                   test_list; EvalPlus: these and test
    livecodebench  question_content, starter_code, public_test_cases, private_test_cases, metadata
    codeforces     title, description, input_format, output_format, examples, note, official_tests, time_limit,
                   memory_limit, generated_checker, input_mode, executable, ... (open-r1/codeforces)

The form of "tests" is documented in ``r1jax.rewards.code_tests``. HumanEval's and MBPP's assertions run apart from the
program that they judge, so what they need besides the function (imports, helpers of the prompt) is put before them.
"""

import ast
import json
import math
import re
from typing import Any

from r1jax.tasks.sources.livecodebench import decode_tests
from r1jax.tasks.sources.rows import Fields, Row

FUNCTION_PROMPT = (
    "Complete the following Python function. Reason step by step, then give the whole program, with imports, in one "
    "```python block.\n\n```python\n{question}\n```"
)
PROGRAM_PROMPT = "{question}\n\nReason step by step, then give the whole Python program in one ```python block."
_LIVECODEBENCH = {"cpu_seconds": 6, "memory_mb": 1024}  # seconds of the official runner, for a test
_IMPORTED = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing"),
)
# What the official runner puts before a program, or a function, whose type hints need it.
_PRELUDE = "".join(f"from {name} import *\nimport {name}\n" for name in _IMPORTED) + "sys.setrecursionlimit(50000)\n"
_LONGEST_CALLS = 60  # seconds, for all calls of a function together


def _humaneval(row: Row) -> tuple[str, dict[str, Any]]:
    name = row.text("entry_point")
    try:
        prompt = ast.parse(row.text("prompt"))
    except SyntaxError as error:
        raise row.error("prompt", f"must be Python: {error}") from error
    prompt.body = [node for node in prompt.body if getattr(node, "name", None) != name]
    prelude = ast.unparse(prompt)
    asserts = "\n\n".join([prelude, row.text("test"), f"check({name})"])
    return "", {"tests": {"asserts": asserts, "function": name, "prelude": prelude}}


def _mbpp_question(row: Row) -> str:
    tests = "\n".join(row.items("test_list"))
    return f"{row.text('text', 'prompt')}\n\nThe program must pass these tests:\n\n{tests}"


def _mbpp_names(row: Row) -> set[str]:
    """The names that the tests call and the reference solution defines: the one function, save in a few problems."""
    try:
        tests, code = ast.parse("\n".join(row.items("test_list"))), ast.parse(row.text("code"))
    except SyntaxError:
        return set()
    called = {
        node.func.id for node in ast.walk(tests) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    return called & {node.name for node in code.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def _mbpp(row: Row) -> tuple[str, dict[str, Any]]:
    imports = row.items("test_imports") if row.get("test_imports") else []
    further = row.items("challenge_test_list") if row.get("challenge_test_list") else []
    asserts = [*imports, row.get("test_setup_code", default=""), *row.items("test_list"), *further]
    if row.get("test"):  # EvalPlus
        asserts = [row.text("test")]
    return "", {"tests": {"asserts": "\n".join(asserts), "function": min(_mbpp_names(row))}}


def _livecodebench_question(row: Row) -> str:
    starter = row.get("starter_code", default="")
    if not starter.strip():
        return f"{row.text('question_content')}\n\nThe program reads from standard input and writes to standard output."
    return f"{row.text('question_content')}\n\nThe program completes this code:\n\n```python\n{starter}\n```"


def _livecodebench(row: Row) -> tuple[str, dict[str, Any]]:
    cases = []
    for field in ("public_test_cases", "private_test_cases"):
        try:
            cases += decode_tests(row.text(field))
        except ValueError as error:
            raise row.error(field, f"cannot be read: {error}") from error
    kinds = {case["testtype"] for case in cases}
    if len(kinds) != 1:
        raise row.error("public_test_cases", f"and the private ones must be of one type; they are {sorted(kinds)}")
    if kinds == {"stdin"}:
        stdin = [{"input": case["input"], "output": case["output"]} for case in cases]
        return "", {"tests": {"stdin": stdin, "prelude": _PRELUDE, **_LIVECODEBENCH}}
    name = row.parsed("metadata").get("func_name")
    if not name:
        raise row.error("metadata", "must name the function as 'func_name'")
    try:
        calls = [
            {
                "arguments": [json.loads(line) for line in case["input"].split("\n")],
                "expected": json.loads(case["output"]),
            }
            for case in cases
        ]
    except ValueError as error:
        raise row.error("private_test_cases", f"must hold JSON, an argument a line: {error}") from error
    is_method = "class Solution" in row.get("starter_code", default="")
    seconds = min(_LIVECODEBENCH["cpu_seconds"] * len(calls), _LONGEST_CALLS)
    function = f"Solution.{name}" if is_method else name
    tests = {"calls": calls, "function": function, "prelude": _PRELUDE}
    return "", {"tests": {**tests, **_LIVECODEBENCH, "cpu_seconds": seconds}}


def _codeforces_question(row: Row) -> str:
    parts = [f"# {row.text('title')}", row.text("description")]
    parts += [f"## {head}\n{row.get(field)}" for head, field in _CODEFORCES_PARTS.items() if row.get(field)]
    examples = row.items("examples", of=dict) if row.get("examples") else []
    parts += [f"## Example\nInput:\n{entry['input']}\nOutput:\n{entry['output']}" for entry in examples]
    parts.append(f"Time limit: {row.get('time_limit')} s. Memory limit: {row.get('memory_limit')} MB.")
    return "\n\n".join(parts)


_CPP = re.compile(r"^#include *[<\"]", re.MULTILINE)
_CODEFORCES_PARTS = {"Input": "input_format", "Output": "output_format", "Note": "note"}


def _codeforces_skip(row: Row) -> str | None:
    if not row.get("description"):
        return "without a description"
    if row.get("interaction_format"):
        return "interactive"
    if row.get("input_mode", default="stdio") != "stdio":
        return "reading and writing files"
    if row.get("executable") is False:
        return "not executable"
    if row.get("official_tests_complete") is False:
        return "with some of their tests only"
    if row.get("testset_size") == 0:
        return "without tests"
    return None


def _codeforces(row: Row) -> tuple[str, dict[str, Any]]:
    cases = row.items("official_tests", of=dict)
    stdin = [{"input": case.get("input"), "output": case.get("output")} for case in cases]
    if not stdin or not all(isinstance(text, str) for case in stdin for text in case.values()):
        raise row.error("official_tests", "must be a list of at least one test with the texts 'input' and 'output'")
    tests = {
        "stdin": stdin,
        "compare": "tokens",
        "cpu_seconds": math.ceil(row.get("time_limit", default=2.0)),
        "memory_mb": max(64, int(row.get("memory_limit", default=256))),
    }
    checker = row.get("generated_checker")
    if checker:
        tests |= {"checker": checker, "checker_kind": "testlib" if _CPP.search(checker) else "codeforces"}
    rating = row.get("rating")
    return "", {"tests": tests} if rating is None else {"tests": tests, "rating": rating}


CODE_DATASETS: dict[str, Fields] = {
    "humaneval": Fields(
        grader="code",
        prompt=FUNCTION_PROMPT,
        question=lambda row: row.text("prompt").rstrip(),
        target=_humaneval,
        reads=("prompt",),
        solution=lambda row: row.get("canonical_solution", default=""),
    ),
    "mbpp": Fields(
        grader="code",
        prompt=PROGRAM_PROMPT,
        question=_mbpp_question,
        target=_mbpp,
        reads=("text", "prompt", "test_list", "code"),
        solution=lambda row: row.get("code", default=""),
        skip=lambda row: None if len(_mbpp_names(row)) == 1 else "whose tests do not call one function of the solution",
    ),
    "livecodebench": Fields(
        grader="code",
        prompt=PROGRAM_PROMPT,
        question=_livecodebench_question,
        target=_livecodebench,
        reads=("question_content", "starter_code"),
    ),
    "codeforces": Fields(
        grader="code",
        prompt=PROGRAM_PROMPT,
        question=_codeforces_question,
        target=_codeforces,
        reads=(
            *("title", "description", *_CODEFORCES_PARTS.values(), "examples", "time_limit", "memory_limit"),
            *("interaction_format", "input_mode", "executable", "official_tests_complete", "testset_size"),
        ),
        solution=lambda row: row.get("editorial", default=""),
        skip=_codeforces_skip,
    ),
}
