"""Other implementations, each a script of experiments/peers in a process of its own, that take turns in one run.

A peer is loaded once and then asked, as often as wanted, by a line of JSON each. While one works the others wait, so a
change of the machine's load meets all of them.
"""

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

SCRIPTS = Path("experiments/peers")


class Peer:
    """A running script; a context manager that ends it."""

    def __init__(self, command: Sequence[str | Path], *, pythonpath: Path | None = None):
        self._name = Path(command[1]).name
        if not Path(command[1]).is_file():
            raise FileNotFoundError(f"{command[1]}: run this from the root of the repository")
        path = {} if pythonpath is None else {"PYTHONPATH": str(pythonpath.resolve())}
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in __exit__)
        self._process = subprocess.Popen(
            [*map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | path,
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to a request. ValueError, with the last line that it wrote to stderr: the script failed."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            if reply := self._process.stdout.readline():
                return json.loads(reply)
        except BrokenPipeError:
            pass
        self._process.wait()
        self._log.seek(0)
        raise ValueError(f"{self._name} failed: {self._log.read().strip().splitlines()[-1:]}")

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_) -> None:
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """How many times as fast ours is: the median, least and largest quotient of seconds of the same turn."""
    quotients = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {"median": median(quotients), "least": min(quotients), "largest": max(quotients)}
