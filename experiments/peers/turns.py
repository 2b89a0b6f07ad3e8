"""How a peer takes turns with ``r1jax.bench``: a line of JSON in, a line of JSON out (``r1jax.bench.peers``)."""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any


class Turns:
    """Requests and replies of this process, with the CPU seconds in between; what libraries print goes to stderr."""

    def __init__(self):
        self._replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def receive(self) -> dict[str, Any] | None:
        """The next request; None: there are no more."""
        line = sys.stdin.readline()
        self._begin = time.process_time()
        return json.loads(line) if line else None

    def reply(self, reply: dict[str, Any]) -> None:
        """Answers the request."""
        reply = reply | {"cpu_seconds": time.process_time() - self._begin}
        print(json.dumps(reply), file=self._replies, flush=True)


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answers every request by ``answer(request)``."""
    turns = Turns()
    while (request := turns.receive()) is not None:
        turns.reply(answer(request))
