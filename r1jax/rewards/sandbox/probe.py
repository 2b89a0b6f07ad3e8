"""Tries the sandbox out: a program inside of it reports what it can see and do, and everything must be as promised."""

import functools
import json
import os
import re
import sys

from r1jax.rewards.sandbox import bubblewrap
from r1jax.rewards.sandbox.bubblewrap import TITLE, Command, Limits, SandboxUnavailable, confine, interpreter

_LIMITS = Limits(cpu_seconds=5, seconds=60.0, memory_mb=256, output_kb=64)
_OLDEST_KERNEL = (5, 14)  # since then the limit on processes counts those of one user namespace

_PROGRAM = """
import ctypes, json, os, resource
def fails(call, *args):
    try:
        return bool(call(*args)) and False
    except OSError:
        return True
libc = ctypes.CDLL(None, use_errno=True)
print(json.dumps({
    "user": [os.getuid(), os.geteuid(), os.getgid(), os.getegid()],
    "parent": os.getppid(),
    "host": os.uname().nodename,
    "environment": sorted(set(os.environ) - {"LC_CTYPE", "PWD"}),
    "root": sorted(os.listdir("/")),
    "home": os.listdir(),
    "descriptors": [number for number in range(64) if not fails(os.fstat, number)],
    "processes": fails(os.fork),
    "network": libc.socket(2, 1, 0) == -1,
    "namespaces": libc.unshare(0x10000000) == -1,
    "writable": [path for path in ("/", "/home", "/dev", "/box", "/tmp", "/box/packages") if os.access(path, os.W_OK)],
    "new privileges": libc.prctl(39, 0, 0, 0, 0),
    "limits": [resource.getrlimit(kind) for kind in (
        resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE)],
}))
"""
_PROMISED = {
    "user": [bubblewrap.NOBODY] * 4,
    "parent": 1,
    "host": "sandbox",
    "environment": ["MALLOC_ARENA_MAX", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED", "PYTHONPATH"],
    "home": [],
    "descriptors": [0, 1, 2],
    "processes": True,
    "network": True,
    "namespaces": True,
    "writable": [],
    "new privileges": 1,
    "limits": [[5, 6], [256 << 20] * 2, [64] * 2, [(64 << 10) + 1] * 2, [0, 0]],
}
_ROOT = {"box", "dev", "etc", "home", "usr", "lib", "lib32", "lib64"}
_FORBIDDEN = (
    "User namespaces are forbidden here. In a container, start it with --security-opt seccomp=unconfined, or another"
    " profile that lets unshare and clone make them; on Ubuntu 24.04 or later, give bwrap an AppArmor profile with"
    " 'userns', or set kernel.apparmor_restrict_unprivileged_userns=0"
)


@functools.cache
def find_problem() -> str | None:
    """Why programs cannot be confined here and what to do about it, or None where they can. Tried once a process."""
    kernel = os.uname().release
    version = re.match(r"(\d+)\.(\d+)", kernel)
    if version is None or (int(version[1]), int(version[2])) < _OLDEST_KERNEL:
        return f"{TITLE}: it needs Linux 5.14 or later, this is {kernel}"
    command = Command((interpreter(), "-s", "-P", "-B", "/box/main.py"), {"/box/main.py": _PROGRAM.encode()})
    try:
        ended = confine(command, stdin=b"", limits=_LIMITS)
    except SandboxUnavailable as error:
        return str(error)
    except (OSError, RuntimeError) as error:
        return f"{TITLE}, and it does not start: {error}"
    message = ended.stderr.strip()
    if ended.status != "ok":
        advice = f"{_FORBIDDEN}." if "namespace" in message or "uid map" in message else f"({bubblewrap.INSTALL}.)"
        return f"{TITLE}, and bubblewrap fails: {message or ended.status}. {advice}"
    try:
        seen = json.loads(ended.stdout)
        broken = [name for name, value in _PROMISED.items() if seen[name] != value]
        mounted = {path.split("/")[1] for path in (interpreter(), os.path.realpath(sys.base_prefix))}
        broken += sorted(set(seen["root"]) - _ROOT - mounted)
    except (ValueError, LookupError, TypeError) as error:
        return f"{TITLE}, and its report is broken: {error!r}"
    if broken:
        details = ", ".join(f"{name}: {seen.get(name, 'visible')}" for name in broken)
        return f"{TITLE}, and it leaks here: {details}"
    return None
