"""The command line of bubblewrap: what a program sees and what it may use up."""

import contextlib
import dataclasses
import functools
import glob
import importlib.util
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from r1jax.rewards.sandbox import seccomp
from r1jax.rewards.sandbox.process import RunResult, read_report, status_of, wait_for
from r1jax.specs.fields import Bound, Count, Positive

NOBODY = 65534
TITLE = "generated code is not run without its sandbox"
INSTALL = "Debian or Ubuntu, as root: apt-get install bubblewrap"

_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_THREADS = 64
_OPEN_FILES = 64
_PACKAGES = ("numpy", "numpy.libs", "sortedcontainers")  # what judges offer; numpy.libs is numpy's neighbour
_STAGE = "/mnt"
_STAGE_SCRIPT = f"""mount -t tmpfs -o mode=755 stage {_STAGE} || exit
while [ "$1" != -- ]; do mkdir -p "{_STAGE}$1" && mount --bind "$1" "{_STAGE}$1" || exit; shift; done; shift; exec "$@\""""


class SandboxUnavailable(RuntimeError):
    """Code cannot be confined on this machine, so it is not run at all; the message says what to do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one run may use up; read by ``specs.reader``."""

    cpu_seconds: Count = 10  # over all threads, whole seconds
    seconds: Positive | None = None  # wall time, less what was spent in line for a processor; None: 5 + 5 * cpu_seconds
    memory_mb: Annotated[int, Bound(lambda value: value >= 32, "must be at least 32")] = 512  # address space
    output_kb: Count = 1024  # stdout, and stderr; a program that writes more is ended


@dataclasses.dataclass(frozen=True)
class Command:
    """Something to run in the sandbox."""

    words: tuple[str, ...]  # as the sandbox sees them
    files: dict[str, bytes]  # contents by absolute path in the sandbox, read-only, executable
    stack_mb: int = 64  # of the first thread, and what other threads get by default, out of the address space
    compiler: bool = False  # g++: it sees its parts and headers, may start processes and has a writable /tmp


def confine(command: Command, *, stdin: bytes | int, stdout: int | None = None, limits: Limits) -> RunResult:
    """Runs a command under bubblewrap. OSError: no process or no memory for it.

    It writes to files in memory, whose size the kernel limits.

    stdin: what it reads, or the file descriptor that it reads from, which is closed here.
    stdout: the file descriptor that it writes to, closed here too; None to give what it writes.
    """
    start = time.monotonic()
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as pipes:

        def kept(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        def passed(content: bytes) -> str:
            fds.append(kept(_in_memory(content)))
            return str(fds[-1])

        for fd in (stdin, stdout):
            if isinstance(fd, int):
                pipes.callback(os.close, fd)
        report, printed, errors = (kept(os.memfd_create("sandbox")) for _ in range(3))
        fds = [report]
        options = ["--json-status-fd", str(report), *_NAMESPACES, *_system(compiler=command.compiler)]
        files = dict(command.files)
        if any(b"/dev/stdin" in content for content in files.values()):  # there is no /proc for it to lead to
            files["/dev/stdin"] = b"" if isinstance(stdin, int) else stdin
        for path, content in files.items():
            options += ["--perms", "0555", "--file", passed(content), path]
        options += ["--remount-ro", "/", "--chdir", "/tmp" if command.compiler else "/home"]
        options += ["--seccomp", passed(_filter(processes=command.compiler))]
        options += ["--", *_rlimits(limits, command), *command.words]
        with subprocess.Popen(
            [*_bubblewrap(), *options],
            stdin=stdin if isinstance(stdin, int) else kept(_in_memory(stdin)),
            stdout=printed if stdout is None else stdout,
            stderr=errors,
            pass_fds=fds,
            env={},
        ) as process:
            pipes.close()
            seconds = 5.0 + 5.0 * limits.cpu_seconds if limits.seconds is None else limits.seconds
            in_time = wait_for(process, report, seconds=seconds)
        limit, ran = limits.output_kb << 10, time.monotonic() - start
        output, said = os.pread(printed, limit, 0), os.pread(errors, limit, 0)
        status = status_of(read_report(report, "exit-code"), said, was_killed=ran >= limits.cpu_seconds)
        if any(os.fstat(fd).st_size > limit for fd in (printed, errors)):
            status = "output"
        elif not in_time:
            status = "time"
        return RunResult(status, output, said, ran)


def interpreter() -> str:
    """Path of the Python that programs run on: the one this process runs on, outside of any virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def find(name: str) -> str:
    """Path of a program of the system. SandboxUnavailable: it is not on PATH."""
    path = shutil.which(name)
    if path is None:
        raise SandboxUnavailable(f"{TITLE}: {name} is not on PATH. {_ADVICE[name]}")
    return os.path.realpath(path)


_COMPILER = ("g++", "as", "ld")
_COMPILER_FOLDERS = ("/usr/include", "/usr/local/include", "/usr/lib/gcc", "/usr/libexec/gcc")
_UTILITIES = "Install util-linux (Debian or Ubuntu, as root: apt-get install util-linux)"
_ADVICE = {
    "bwrap": f"Install bubblewrap ({INSTALL})",
    **dict.fromkeys(("prlimit", "setpriv", "unshare"), _UTILITIES),
    **dict.fromkeys(("sh", "cat"), "A POSIX shell is needed"),
    **dict.fromkeys(_COMPILER, "Install a C++ compiler (Debian or Ubuntu, as root: apt-get install g++)"),
}
_NAMESPACES = (
    *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
    *("--uid", str(NOBODY), "--gid", str(NOBODY), "--hostname", "sandbox", "--cap-drop", "ALL"),
    *("--die-with-parent", "--new-session", "--clearenv"),
    *("--setenv", "PYTHONHASHSEED", "0"),  # equal order of sets in every run
    *("--setenv", "MALLOC_ARENA_MAX", "1", "--setenv", "OPENBLAS_NUM_THREADS", "1"),  # address space
    *("--setenv", "PYTHONPATH", "/box/packages"),
)


def _bubblewrap() -> list[str]:
    """The words up to "bwrap". Root becomes nobody first: the kernel exempts root from the limit on processes.

    Folders that nobody may not enter (in root's home, say) are first mounted where they can be found.
    """
    if os.getuid() != 0:
        return [find("bwrap")]
    drop = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    words = [find("setpriv"), *drop, find("bwrap")]
    folders = dict.fromkeys([_prefix(), *(os.path.dirname(path) for path in _packages())])
    closed = [folder for folder in folders if not _is_open(folder)]
    return (
        [find("unshare"), "--mount", find("sh"), "-c", _STAGE_SCRIPT, "sh", *closed, "--", *words] if closed else words
    )


def _system(*, compiler: bool) -> Iterator[str]:
    """Mounts: libraries and four devices; the interpreter with its packages, or the parts of g++. No /proc, /sys, /etc."""
    yield from ("--dir", "/home")
    for path in (*_libraries(), *(_COMPILER_FOLDERS if compiler else ())):
        yield from ("--ro-bind-try", path, path)
    for path in _DEVICES:
        yield from ("--dev-bind", path, path)
    yield from ("--ro-bind", find("prlimit"), find("prlimit"))
    if compiler:
        for name in ("sh", "cat", *_COMPILER):
            yield from ("--ro-bind", find(name), f"/usr/bin/{name}")
        yield from ("--tmpfs", "/tmp")
        return
    visible, hidden = _python_paths()
    for path in visible:
        yield from ("--ro-bind", _seen(path), path)
    for path in hidden:
        yield from ("--tmpfs", path, "--remount-ro", path)
    for path in _packages():
        yield from ("--ro-bind", _seen(path), f"/box/packages/{os.path.basename(path)}")


@functools.cache
def _libraries() -> list[str]:
    """The C library and its neighbours: Debian's folder for this architecture, or else all of /usr/lib."""
    architecture = sysconfig.get_config_var("MULTIARCH") or f"{os.uname().machine}-linux-gnu"
    folders = [f"/usr/lib/{architecture}", f"/lib/{architecture}", *sorted(glob.glob("/lib/ld-*.so*"))]
    if not os.path.isdir(folders[0]):
        folders = ["/usr/lib", "/lib"]
    return [*folders, "/usr/lib64", "/lib64", "/etc/ld.so.cache"]


@functools.cache
def _python_paths() -> tuple[list[str], list[str]]:
    """What to mount for the interpreter, and what to hide of it: installed packages."""
    prefixes = dict.fromkeys((_prefix(), os.path.realpath(sys.base_exec_prefix)))
    if "/usr" in prefixes:
        folders = [os.path.dirname(os.__file__), sysconfig.get_path("platstdlib", vars={"platbase": "/usr"})]
    else:
        folders = [f"{prefix}/{name}" for prefix in prefixes for name in ("lib", "lib64")]
    visible = [path for path in dict.fromkeys(map(os.path.realpath, folders)) if os.path.isdir(path)]
    packages = {os.path.realpath(path) for path in site.getsitepackages(list(prefixes))}
    hidden = [path for path in packages if os.path.isdir(path) and any(map(Path(path).is_relative_to, visible))]
    return [interpreter(), *visible], sorted(hidden)


@functools.cache
def _packages() -> list[str]:
    """The folders of the packages that programs may import, as far as they are installed."""
    spec = importlib.util.find_spec("numpy"), importlib.util.find_spec("sortedcontainers")
    parents = dict.fromkeys(os.path.dirname(os.path.dirname(os.path.realpath(str(one.origin)))) for one in spec if one)
    return [path for parent in parents for name in _PACKAGES if os.path.isdir(path := f"{parent}/{name}")]


def _prefix() -> str:
    return os.path.realpath(sys.base_prefix)


@functools.cache
def _is_open(path: str) -> bool:
    """Whether the user that bubblewrap runs as may enter every folder above a path."""
    return os.getuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in Path(path).parents)


def _seen(path: str) -> str:
    """Where bubblewrap finds a path."""
    return path if _is_open(path) else _STAGE + path


def _rlimits(limits: Limits, command: Command) -> Sequence[str]:
    """prlimit and its options. It runs inside: the limit on processes counts those of the innermost user namespace."""
    return (
        find("prlimit"),
        # SIGXCPU, and SIGKILL a second later for programs that catch it
        f"--cpu={limits.cpu_seconds}:{limits.cpu_seconds + 1}",
        f"--as={limits.memory_mb << 20}",
        f"--stack={command.stack_mb << 20}",
        f"--nproc={_THREADS}",
        f"--nofile={_OPEN_FILES}",
        f"--fsize={(limits.output_kb << 10) + 1}",  # of what it prints: no other file can be written to
        "--core=0",
        "--memlock=65536",
        "--sigpending=256",
        "--msgqueue=0",
        "--",
    )


@functools.cache
def _filter(*, processes: bool) -> bytes:
    try:
        return seccomp.make_filter(os.uname().machine, processes=processes)
    except ValueError as error:
        raise SandboxUnavailable(f"{TITLE}: {error}") from error


def _in_memory(content: bytes) -> int:
    """A file descriptor, at its start and read-only, of a file that is on no disk."""
    writable = os.memfd_create("sandbox")
    try:
        with os.fdopen(writable, "wb", closefd=False) as file:
            file.write(content)
        return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writable)
