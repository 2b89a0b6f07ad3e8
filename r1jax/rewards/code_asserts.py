"""Tests that are a program: assertions that call a function. They and the function run in two sandboxes, joined by pipes.

So the assertions, which hold the answers, are never in the process, nor in the file system, of the program that they
judge. A call's arguments and its value cross as literals; a program that changes its arguments in place is not seen to.
"""

import dataclasses

from r1jax.rewards import inside, sandbox


class VerifierError(RuntimeError):
    """The verifier failed (sandbox, checker, assertions), not the program that it judges."""


def check_sandbox(*results: sandbox.Result) -> None:
    """Raises VerifierError for the first run that the sandbox itself failed."""
    for result in results:
        if result.status == "sandbox":
            raise VerifierError(f"the sandbox failed: {result.stderr.strip()[-500:]}")


def passes_asserts(source: str, asserts: str, *, function: str, limits: sandbox.Limits, prelude: str = "") -> bool:
    """Whether assertions hold of a function of a Python program.

    Args:
        source: the program.
        asserts: the assertions' program; the function is known to it by its name, and as ``candidate``.
        function: its name.
        limits: of the program, and of the assertions.
        prelude: a program that runs before it, in the same module.

    Raises:
        VerifierError: the assertions fail without the function, or go beyond their limits while it does not.
    """
    server = _program("solution_server", prelude=prelude, solution=source)
    asserter = _program("asserter", asserts=asserts)
    judged, judge = sandbox.run_pair(server, asserter, limits, args=((), (function,)))
    check_sandbox(judged, judge)
    if judge.status == "ok":
        return True
    verdict = judge.stderr.rstrip().rpartition("\n")[2]
    if verdict == "failed" or judged.status != "ok":
        return False
    raise VerifierError(f"the assertions are at fault ({judge.status}): {judge.stderr.strip()[-500:]}")


def _program(name: str, **modules: str) -> sandbox.Program:
    program = sandbox.prepare(inside.source_of(name))
    assert isinstance(program, sandbox.Program)
    files = {f"/box/{module}.py": text.encode("utf-8", "surrogatepass") for module, text in modules.items()}
    return dataclasses.replace(program, files=program.files | files)
