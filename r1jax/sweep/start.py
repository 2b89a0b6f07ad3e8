"""Starts a command for `local.py`: `start.py PARENT CORES COMMAND...`, pinned to cores, and asked to end with its parent.

A script of its own, because what it sets must hold before the command's first thread, and it imports nothing of r1jax.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
STOPPED = 75


def main(parent: str, cores: str, *command: str) -> int:
    """Becomes the command; returns only where the parent has ended before."""
    if sys.platform.startswith("linux"):
        os.sched_setaffinity(0, map(int, cores.split(",")))
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        return STOPPED
    os.execvp(command[0], command)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
