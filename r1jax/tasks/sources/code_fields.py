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
import base64
import binascii
import json
import math
import pickletools
import re
import zlib
from typing import Any

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
MAX_BYTES = 2**30
_TEXT = frozenset({"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"})
_HARMLESS = frozenset({"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"})
_LONGEST_CALLS = 60  # seconds, for all calls of a function together


def _humaneval(row: Row) -> tuple[str, dict[str, Any]]:
    name = row.text("entry_point")
    try:
        prompt = ast.parse(row.text("prompt"))
    except SyntaxError as error:
        raise row.error("prompt", f"must be Python: {error}") from error
    prompt.body = [node for node in prompt.body if getattr(node, "name", None) != name]
    prelude = ast.unparse(prompt)
    asserts = f"{prelude}\n\n{row.text('test')}\n\ncheck({name})"
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
    setup, tests = row.get("test_setup_code", default=""), row.items("test_list")
    asserts = [*row.items("test_imports", or_none=True), setup, *tests, *row.items("challenge_test_list", or_none=True)]
    if row.get("test"):  # EvalPlus
        asserts = [row.text("test")]
    return "", {"tests": {"asserts": "\n".join(asserts), "function": min(_mbpp_names(row))}}


def _livecodebench_question(row: Row) -> str:
    starter = row.get("starter_code", default="")
    if not starter.strip():
        return f"{row.text('question_content')}\n\nThe program reads from standard input and writes to standard output."
    return f"{row.text('question_content')}\n\nThe program completes this code:\n\n```python\n{starter}\n```"


def _livecodebench(row: Row) -> tuple[str, dict[str, Any]]:
    dated = {name: str(row.get(name)) for name in ("contest_date", "difficulty") if row.get(name) is not None}
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
        return "", {"tests": {"stdin": stdin, "prelude": _PRELUDE, **_LIVECODEBENCH}, **dated}
    name = row.parsed("metadata").get("func_name")
    if not name:
        raise row.error("metadata", "must name the function as 'func_name'")
    try:
        arguments = [[json.loads(line) for line in case["input"].split("\n")] for case in cases]
        expected = [json.loads(case["output"]) for case in cases]
    except ValueError as error:
        raise row.error("private_test_cases", f"must hold JSON, an argument a line: {error}") from error
    is_method = "class Solution" in row.get("starter_code", default="")
    calls = [{"arguments": given, "expected": value} for given, value in zip(arguments, expected, strict=True)]
    seconds = min(_LIVECODEBENCH["cpu_seconds"] * len(calls), _LONGEST_CALLS)
    function = f"Solution.{name}" if is_method else name
    tests = {"calls": calls, "function": function, "prelude": _PRELUDE}
    return "", {"tests": {**tests, **_LIVECODEBENCH, "cpu_seconds": seconds}, **dated}


def decode_tests(text: str) -> list[dict[str, Any]]:
    """LiveCodeBench's test cases, published as a JSON list or as base64 of zlib of a pickled text of it.

    Unpickling runs whatever the file says, so nothing is unpickled here: the pickle's instructions are listed, and only
    the few that write down one text are accepted. ValueError for more than a GiB unpacked, and for anything but a list
    of dicts with "input", "output" and "testtype" ("stdin" or "functional").
    """
    content = text if text.lstrip().startswith("[") else _unpacked(text)
    try:
        cases = json.loads(content)
    except ValueError as error:
        raise ValueError(f"no JSON: {error}") from error
    if not isinstance(cases, list):
        raise ValueError(f"must be a list of test cases; it is a {type(cases).__name__}")
    for number, case in enumerate(cases, 1):
        if not isinstance(case, dict) or not all(isinstance(case.get(key), str) for key in ("input", "output")):
            raise ValueError(f"test case {number} must have the texts 'input' and 'output'")
        if case.get("testtype") not in ("stdin", "functional"):
            raise ValueError(f"test case {number} is of type {case.get('testtype')!r}, not 'stdin' or 'functional'")
    return cases


def _unpacked(text: str) -> str:
    try:
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(base64.b64decode(text, validate=True), MAX_BYTES)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ValueError(f"neither JSON nor base64 of zlib: {error}") from error
    if not unpacker.eof:
        raise ValueError(f"is cut off, or larger than {MAX_BYTES} bytes unpacked")
    try:
        instructions = [(instruction.name, argument) for instruction, argument, _ in pickletools.genops(content)]
    except ValueError as error:
        raise ValueError(f"must be the pickle of one text and nothing else: {error}") from error
    texts = [argument for name, argument in instructions if name in _TEXT]
    others = [name for name, _ in instructions if name not in _TEXT | _HARMLESS]
    if others or len(texts) != 1:
        has = f"instruction {others[0]}" if others else f"it has {len(texts)} texts"
        raise ValueError(f"must be the pickle of one text and nothing else: {has}")
    return str(texts[0])


def _codeforces_question(row: Row) -> str:
    parts = [f"# {row.text('title')}", row.text("description")]
    heads = {"Input": "input_format", "Output": "output_format", "Note": "note"}
    parts += [f"## {head}\n{row.get(field)}" for head, field in heads.items() if row.get(field)]
    examples = row.items("examples", of=dict, or_none=True)
    parts += [f"## Example\nInput:\n{entry['input']}\nOutput:\n{entry['output']}" for entry in examples]
    parts.append(f"Time limit: {row.get('time_limit')} s. Memory limit: {row.get('memory_limit')} MB.")
    return "\n\n".join(parts)


_CPP = re.compile(r"^#include *[<\"]", re.MULTILINE)


def _codeforces_skip(row: Row) -> str | None:
    reasons = {
        "without a description": not row.get("description"),
        "interactive": row.get("interaction_format"),
        "reading and writing files": row.get("input_mode", default="stdio") != "stdio",
        "not executable": row.get("executable") is False,
        "with some of their tests only": row.get("official_tests_complete") is False,
        "without tests": row.get("testset_size") == 0,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


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
        solution="canonical_solution",
    ),
    "mbpp": Fields(
        grader="code",
        prompt=PROGRAM_PROMPT,
        question=_mbpp_question,
        target=_mbpp,
        solution="code",
        skip=lambda row: None if len(_mbpp_names(row)) == 1 else "whose tests do not call one function of the solution",
    ),
    "livecodebench": Fields(
        grader="code",
        prompt=PROGRAM_PROMPT,
        question=_livecodebench_question,
        target=_livecodebench,
    ),
    "codeforces": Fields(
        grader="code",
        prompt=PROGRAM_PROMPT,
        question=_codeforces_question,
        target=_codeforces,
        solution="editorial",
        skip=_codeforces_skip,
    ),
}
