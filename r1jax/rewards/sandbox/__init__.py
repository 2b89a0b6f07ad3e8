"""Runs a program that nobody has read: Python or C++, confined by bubblewrap.

What it stops. The program is one process, of threads, in namespaces of its own: it sees no process, no network, no shared
memory but its own. Its file system is the C library and the interpreter with numpy and sortedcontainers, as far as they are
installed here, read-only, an empty home and four devices. It inherits no environment and no file but stdin, stdout and
stderr, has no capability and can get none; a seccomp filter (``seccomp``) refuses about a hundred system calls; kernel
limits hold CPU time, address space, threads, open files, output. It ends with this process, and when its run returns nothing
of it is left. Started by root, it runs as nobody. C++ is compiled in a sandbox that holds the compiler, headers, libraries.

What it does not stop. A hole in the kernel: for the output of a hostile expert, put a virtual machine around it. Seeing the
interpreter's version, the CPU and the time of day. Slowing its neighbours, by memory bandwidth and caches.

It fails closed. Without a working bubblewrap nothing is run: ``SandboxUnavailable``, after a real probe, once a process
(``probe``). Results do not depend on how busy the machine is: the CPU time decides; wall time, without the time spent in line
for a processor, is a larger backstop, for programs that sleep."""

import concurrent.futures
import dataclasses
import functools
import os
import queue
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from r1jax.rewards.sandbox.bubblewrap import Command, Limits, SandboxUnavailable, confine, find, interpreter
from r1jax.rewards.sandbox.probe import find_problem
from r1jax.rewards.sandbox.process import RunResult
from r1jax.specs.reader import read

_PYTHON = re.compile(r"(python|py|pypy|cpython)[ -]?(3[.\d]*)?([ -]64)?")
_CPP = re.compile(r"(gnu |ms |clang )?(c|g|clang)\+\+ ?(?P<year>\d\d)?( .*|\(.*)?|(cpp|cxx|cc)-?(?P<year_of_cpp>\d\d)?")
_YEARS = ("11", "14", "17", "20", "23")
_COMPILE = Limits(cpu_seconds=30, seconds=120.0, memory_mb=2048, output_kb=65536)
_COMPILE_SCRIPT = """export PATH=/usr/bin
g++ -std=gnu++$1 -O2 -w -fmax-errors=5 -pipe -o /tmp/program /box/main.cpp && cat /tmp/program"""


def read_language(name: str) -> str | None:
    """ "python", or "cpp" with the year of its standard, for a language as data sets name it; None for any other.

    All Python 3, PyPy too, is this interpreter: "py", "Python3", "PyPy 3-64". C++ is that of g++ with GNU's extensions,
    2017 where no year is named: "c++", "cpp20", "GNU C++17 (64)".
    """
    name = name.strip().lower()
    if _PYTHON.fullmatch(name):
        return "python"
    if cpp := _CPP.fullmatch(name):
        year = cpp["year"] or cpp["year_of_cpp"] or "17"
        return f"cpp{year}" if year in _YEARS else None
    return None


def run_source(
    source: str, *, stdin: str | bytes = "", args: Sequence[str] = (), language: str = "python", **limits: Any
) -> RunResult:
    """Runs a program to its end. Never raises on a program, whatever it is or does.

    Args:
        source: the program's text. C++ is compiled in the sandbox too, with limits of its own.
        stdin: what it reads (also as /dev/stdin); text goes in as UTF-8.
        args: its command-line arguments.
        language: see ``read_language``.
        limits: see ``Limits``.

    Raises:
        SandboxUnavailable: no working bubblewrap, or no compiler for C++.
        ValueError: unknown language, or a limit out of range.
    """
    checked = read(Limits, limits, "sandbox")
    command = prepare(source, language=language)
    return command if isinstance(command, RunResult) else run_command(command, checked, stdin=stdin, args=args)


def prepare(source: str, *, language: str = "python") -> Command | RunResult:
    """What ``run_command`` runs, any number of times; for C++ that does not compile, the result with status "compile".

    Raises:
        SandboxUnavailable: no working bubblewrap, or no compiler for C++.
        ValueError: unknown language.
    """
    kind = require(language)
    text = source.encode("utf-8", "surrogatepass")
    if kind == "python":
        return Command((interpreter(), "-s", "-P", "-B", "/box/main.py"), {"/box/main.py": text}, stack_mb=16)
    words = ("/usr/bin/sh", "-c", _COMPILE_SCRIPT, "sh", kind.removeprefix("cpp"))
    compiled = _confined(Command(words, {"/box/main.cpp": text}, compiler=True), _COMPILE)
    if compiled.status == "ok":
        return Command(("/box/program",), {"/box/program": compiled.printed})
    message = compiled.errors or f"the compiler went beyond its limits ({compiled.status})".encode()
    status = "sandbox" if compiled.status == "sandbox" else "compile"
    return dataclasses.replace(compiled, status=status, printed=b"", errors=message)


def run_command(command: Command, limits: Limits, *, stdin: str | bytes = "", args: Sequence[str] = ()) -> RunResult:
    """Runs what ``prepare`` gave, as ``run_source`` does."""
    content = stdin if isinstance(stdin, bytes) else stdin.encode("utf-8", "surrogatepass")
    return _confined(command, limits, stdin=content, args=args)


def run_pair(
    first: Command, second: Command, limits: Limits, *, args: tuple[Sequence[str], Sequence[str]] = ((), ())
) -> tuple[RunResult, RunResult]:
    """Runs two programs, each in its own sandbox; each reads what the other writes. Limits hold for each.

    What they wrote to each other is not kept: ``stdout`` is empty.
    """
    first_reads, second_writes = os.pipe()
    second_reads, first_writes = os.pipe()
    ended: list[RunResult] = []
    other = threading.Thread(
        target=lambda: ended.append(_confined(second, limits, stdin=second_reads, stdout=second_writes, args=args[1])),
        daemon=True,
    )
    other.start()
    one = _confined(first, limits, stdin=first_reads, stdout=first_writes, args=args[0])
    other.join()
    return one, ended[0]


def submit(function: Callable[..., Any], *arguments: Any) -> concurrent.futures.Future:
    """Calls a function that waits for programs in one of this process's judging threads, one a core.

    All that are given run in turn, whoever gave them. The threads are daemons: programs under way do not keep an
    interrupted process from ending, and end with it.
    """
    future = concurrent.futures.Future()
    _jobs(os.getpid()).put((future, function, arguments))
    return future


def results_of(futures: Iterable[concurrent.futures.Future]) -> list[Any]:
    """What they give, in order. Where waiting is interrupted, those that have not begun are cancelled."""
    futures = list(futures)
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()


def require(language: str = "python") -> str:
    """Makes sure that programs of a language can be confined here, by trying it once; gives the language's one name.

    Raises:
        SandboxUnavailable: they cannot; the message says what is missing and how to get it.
        ValueError: unknown language.
    """
    kind = read_language(language)
    if kind is None:
        raise ValueError(
            f"unknown language {language!r}; known are Python 3 and C++ of {', '.join(_YEARS)}, under any name"
        )
    problem = find_problem()
    if problem is not None:
        raise SandboxUnavailable(problem)
    if kind != "python" and not find("g++").startswith("/usr/bin/"):
        raise SandboxUnavailable(f"the sandbox sees a compiler in /usr/bin only, not {find('g++')}")
    return kind


@functools.cache
def _jobs(process_id: int) -> queue.SimpleQueue:
    """What the judging threads of a process have to do."""
    jobs: queue.SimpleQueue = queue.SimpleQueue()

    def work() -> None:
        while True:
            future, function, arguments = jobs.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*arguments))
                except BaseException as error:
                    future.set_exception(error)
            del future, function, arguments  # while waiting nothing is kept alive

    for _ in range(max(2, len(os.sched_getaffinity(0)))):
        threading.Thread(target=work, name="programs", daemon=True).start()
    return jobs


def _confined(
    command: Command, limits: Limits, *, stdin: bytes | int = b"", stdout: int | None = None, args: Sequence[str] = ()
) -> RunResult:
    words = (*command.words, *(word.replace("\0", "") for word in args))
    try:
        return confine(dataclasses.replace(command, words=words), stdin=stdin, stdout=stdout, limits=limits)
    except (OSError, RuntimeError) as error:
        return RunResult("sandbox", b"", f"{type(error).__name__}: {error}".encode(), 0.0)
