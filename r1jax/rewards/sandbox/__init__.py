"""Runs a program that nobody has read: Python or C++, confined by bubblewrap.

What it stops. The program is one process (threads are allowed, other processes are not) in namespaces of its own:
it sees no process, no network, no shared memory but its own. Its file system is the interpreter or the C library,
read-only, an empty home and four devices; there is no /proc, /sys, /etc, no installed package, no place to write to. It
inherits no environment and no file but stdin, stdout and stderr. It has no capability and can get none; a seccomp filter
(``seccomp``) refuses about eighty system calls. Kernel limits hold its CPU time, address space, threads, open files,
output. It ends with this process, and when ``run`` returns nothing of it is left, in memory or on disk. Started by root,
it runs as nobody.

What it does not stop. A hole in the kernel: the program calls the same kernel that runs everything else; for the output
of a hostile expert, put a virtual machine around it. Seeing the interpreter's version, the CPU and the time of day.
Slowing its neighbours on the machine, by memory bandwidth and caches, within its CPU time.

It fails closed. Without a working bubblewrap nothing is run: ``SandboxUnavailable``, after a real probe, once a process
(``probe``).

Results do not depend on how busy the machine is: the CPU time decides; wall time, without the time spent in line for a
processor, is a larger backstop, for programs that sleep."""

import concurrent.futures
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from signal import SIGKILL, SIGXCPU
from typing import Any, Literal

from r1jax.rewards.sandbox.bubblewrap import Limits, Program, SandboxUnavailable, confine, find, interpreter
from r1jax.rewards.sandbox.probe import find_problem
from r1jax.rewards.sandbox.process import Ended

PROGRAM_LANGUAGES = ("python", "cpp")
Status = Literal["ok", "exit", "signal", "time", "cpu", "memory", "output", "compile", "sandbox"]

_COMPILE = Limits(cpu_seconds=30, seconds=120.0, memory_mb=2048, output_kb=65536)
_COMPILE_SCRIPT = """export PATH=/usr/bin:/bin
"$1" -std=c++17 -O2 -w -fmax-errors=5 -pipe -o /tmp/program /box/main.cpp && cat /tmp/program"""
_NOT_PYTHON = ("SyntaxError", "IndentationError", "TabError")


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended.

    status: "ok" (exit code 0); "exit" (another code); "signal" (ended by one, or by a code from 129 to 192); "time", "cpu",
        "memory", "output" (beyond that limit; "memory" as the program's own last words tell); "compile" (never ran);
        "sandbox" (no fault of the program's: bubblewrap failed).
    """

    status: Status
    stdout: str  # undecodable bytes replaced, cut at the limit
    stderr: str  # likewise; the compiler's for "compile", bubblewrap's for "sandbox"
    seconds: float  # wall time


def run(
    source: str,
    *,
    stdin: str | bytes = "",
    args: Sequence[str] = (),
    language: str = "python",
    **limits: Any,
) -> Result:
    """Runs a program to its end. Never raises on a program, whatever it is or does.

    Args:
        source: the program's text. Python is this interpreter's, standard library only; C++ is g++'s C++17, compiled in
            the sandbox too, with limits of its own.
        stdin: what it reads (also as /dev/stdin); text goes in as UTF-8.
        args: its command-line arguments.
        language: "python" or "cpp".
        limits: see ``Limits``.

    Raises:
        SandboxUnavailable: no working bubblewrap, or no compiler for C++.
        ValueError: unknown language, or a limit out of range.
    """
    checked = Limits(**limits)
    program = prepare(source, language=language)
    return program if isinstance(program, Result) else run_program(program, checked, stdin=stdin, args=args)


def run_many(jobs: Iterable[Mapping[str, Any]], *, workers: int | None = None) -> list[Result]:
    """Runs many programs, ``workers`` at a time (by default one a core), and gives their results in order.

    Each job is the arguments of ``run``. Threads wait on the programs' processes; memory is bounded by the jobs and by
    their limits of output.
    """
    require()
    with concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return list(pool.map(lambda job: run(**job), jobs))


def prepare(source: str, *, language: str = "python") -> Program | Result:
    """What ``run_program`` runs, any number of times; for C++ that does not compile, the result with status "compile".

    Raises:
        SandboxUnavailable: no working bubblewrap, or no compiler for C++.
        ValueError: unknown language.
    """
    require(language)
    text = source.encode("utf-8", "surrogatepass")
    if language == "python":
        return Program((interpreter(), "-s", "-P", "-B", "/box/main.py"), {"/box/main.py": text}, stack_mb=16)
    compiler = Program((find("sh"), "-c", _COMPILE_SCRIPT, "sh", find("g++")), {"/box/main.cpp": text}, compiler=True)
    ended = _confined(compiler, _COMPILE)
    if ended.reason == "exit" and ended.code == 0:
        return Program(("/box/program",), {"/box/program": ended.stdout})
    message = _text(ended.stderr) or f"the compiler went beyond its limits ({ended.reason})"
    return Result("sandbox" if ended.reason == "sandbox" else "compile", "", message, ended.seconds)


def run_program(program: Program, limits: Limits, *, stdin: str | bytes = "", args: Sequence[str] = ()) -> Result:
    """Runs what ``prepare`` gave, as ``run`` does."""
    content = stdin if isinstance(stdin, bytes) else stdin.encode("utf-8", "surrogatepass")
    return _result(_confined(program, limits, stdin=content, args=args), limits)


def run_pair(
    first: Program, second: Program, limits: Limits, *, args: tuple[Sequence[str], Sequence[str]] = ((), ())
) -> tuple[Result, Result]:
    """Runs two programs, each in its own sandbox; each reads what the other writes. Limits hold for each.

    What they wrote to each other is not kept: ``stdout`` is empty.
    """
    first_reads, second_writes = os.pipe()
    second_reads, first_writes = os.pipe()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        other = pool.submit(_confined, second, limits, stdin=second_reads, stdout=second_writes, args=args[1])
        one = _confined(first, limits, stdin=first_reads, stdout=first_writes, args=args[0])
    return _result(one, limits), _result(other.result(), limits)


def require(language: str = "python") -> None:
    """Makes sure that programs of a language can be confined here, by trying it once.

    Raises:
        SandboxUnavailable: they cannot; the message says what is missing and how to get it.
        ValueError: unknown language.
    """
    if language not in PROGRAM_LANGUAGES:
        raise ValueError(f"sandbox: unknown language {language!r}; known are {', '.join(PROGRAM_LANGUAGES)}")
    problem = find_problem()
    if problem is not None:
        raise SandboxUnavailable(problem)
    if language == "cpp" and not find("g++").startswith("/usr/"):
        raise SandboxUnavailable(f"the sandbox sees the compiler in /usr only, not {find('g++')}")


def _confined(
    program: Program, limits: Limits, *, stdin: bytes | int = b"", stdout: int | None = None, args: Sequence[str] = ()
) -> Ended:
    words = (*program.words, *(word.replace("\0", "") for word in args))
    try:
        return confine(dataclasses.replace(program, words=words), stdin=stdin, stdout=stdout, limits=limits)
    except (OSError, RuntimeError) as error:
        return Ended("sandbox", 0, b"", f"{type(error).__name__}: {error}".encode(), 0.0)


def _result(ended: Ended, limits: Limits) -> Result:
    return Result(_status(ended, limits), _text(ended.stdout), _text(ended.stderr), ended.seconds)


def _status(ended: Ended, limits: Limits) -> Status:
    if ended.reason != "exit":
        return ended.reason  # pyright: ignore[reportReturnType]
    if ended.code == 0:
        return "ok"
    signal_number = ended.code - 128
    if signal_number == SIGXCPU or (signal_number == SIGKILL and ended.seconds >= limits.cpu_seconds):
        return "cpu"
    last_words = _text(ended.stderr[-4096:]).strip()
    last_line = last_words.rpartition("\n")[2]
    if "MemoryError" in last_words or "std::bad_alloc" in last_words:
        return "memory"
    if last_line.startswith(_NOT_PYTHON) and "Traceback (most recent call last)" not in last_words:
        return "compile"
    return "signal" if 0 < signal_number <= 64 else "exit"


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")
