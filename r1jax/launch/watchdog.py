"""Ends a run of several processes in which one is gone or hangs, and says which one and what to do.

Each process tells the coordinator ten times in --peer-timeout that it is there, how often it has met the others
(`r1jax.processes`) and whether it waits for them, and reads what the others reported. Three things end a run: the two
time-outs of README.md, and a process that waits for one that has ended by itself, by an error in that one alone.

The message comes within 1.2 times the time-out, and process 0, which is the coordinator, ends last, so that what the
others say is not lost. Behind this stands JAX's own heartbeat at twice --peer-timeout, which aborts. A process in which
no Python runs for --peer-timeout writes its stacks too, by a thread that needs no interpreter. Time is counted in turns
of this thread: a process that was itself stopped for a while blames no other.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.processes import pulse

LOST = 75  # as r1jax.run's exit code where another process was lost: the same command goes on
TURNS = 10
"""Of the watching thread in --peer-timeout."""
_FORSAKEN_TURNS = 3
"""Fewer than JAX waits, at the end of a program, for the others: it aborts them, and says less."""
_PREFIX = "r1jax/alive/"
_STDERR = 2
_GOES_ON = "the same command goes on from the last checkpoint."


class Watchdog:
    """What one process knows of the others; `start` watches in the background, until `stop` or the end of the program.

    store: what the coordinator keeps for all: JAX's distributed runtime client.
    """

    def __init__(self, store: Any, *, process: int, num_processes: int, peer_timeout: float, step_timeout: float):
        self.seconds = peer_timeout / TURNS  # of a turn
        self._store, self._process, self._others = store, process, [p for p in range(num_processes) if p != process]
        self._step_turns = step_timeout / self.seconds
        self._reports: Mapping[int, Mapping[str, Any]] = {}  # by process, at the latest reply
        self._replies = self._beats = 0
        self._known: dict[Any, Any] = {"replies": 0, "meetings": pulse.meetings}
        self._turns: dict[Any, int] = {}  # since what is known has changed
        self._forsaken = 0  # turns of waiting for one that has ended
        self._is_stuck, self._is_over = False, threading.Event()

    def talk(self) -> None:
        """Tells the coordinator of this process, and asks it of all. Waits for it; raises what the store raises."""
        self._beats += 1
        mine = {"beat": self._beats, "meetings": pulse.meetings, "waits_for": pulse.waits_for, "stuck": self._is_stuck}
        mine |= {"host": platform.node(), "pid": os.getpid(), "over": self._is_over.is_set()}
        self._store.key_value_set(f"{_PREFIX}{self._process}", json.dumps(mine), allow_overwrite=True)
        reports = self._store.key_value_dir_get(_PREFIX)
        self._reports = {int(key.rpartition("/")[2]): json.loads(value) for key, value in reports}
        self._replies += 1

    def turn(self) -> str | None:
        """One turn has passed: what is wrong now, a sentence or two; None where nothing is."""
        reports, still = self._reports, self._turns_since("meetings", pulse.meetings)
        ended = [other for other in self._others if reports.get(other, {}).get("over")]
        unanswered = self._turns_since("replies", self._replies)
        for other in self._others if unanswered == 0 else ():
            self._turns_since(other, reports.get(other, {}).get("beat"))
        if unanswered > TURNS:
            silent = f"{self._name(0)}, the coordinator, does not answer for {self._of(unanswered)}"
        elif names := [p for p in self._others if self._turns.get(p, 0) > TURNS and p not in ended]:
            longest = self._of(max(self._turns[other] for other in names))
            silent = f"{', '.join(map(self._name, names))} not heard of for {longest} (--peer-timeout)"
        else:
            silent = None
        if silent:
            ends = "It is gone, was stopped, or hangs: this one ends. See its log, end it where it still runs;"
            return f"{silent}. {ends} {_GOES_ON}"
        self._forsaken = self._forsaken + 1 if ended and still and pulse.waits_for is not None else 0
        if self._forsaken > _FORSAKEN_TURNS:
            who = f"{', '.join(map(self._name, ended))} ended while this one waits for {pulse.waits_for}"
            return f"{who}. See what that one's log says, and mend it; {_GOES_ON}"
        self._is_stuck = still > self._step_turns
        if self._is_stuck or any(reports.get(other, {}).get("stuck") for other in self._others):
            return f"the run makes no step for {self._of(still)} (--step-timeout). {self._who_is_behind()}"
        return None

    def start(self) -> None:
        """Watches from now on."""
        work = (self._keep_talking, self._keep_watch)
        threads = [threading.Thread(target=function, name="watchdog", daemon=True) for function in work]
        for thread in threads:
            thread.start()
        atexit.register(self.stop, threads)

    def stop(self, threads: Sequence[threading.Thread] = ()) -> None:
        """Watches no more, and tells the others so: they do not wait for this one's word."""
        self._is_over.set()
        for thread in threads:
            thread.join(timeout=self.seconds)
        faulthandler.cancel_dump_traceback_later()

    def _turns_since(self, key: Any, value: Any) -> int:
        """Turns since the value changed."""
        self._turns[key] = 0 if value != self._known.get(key) else self._turns.get(key, 0) + 1
        self._known[key] = value
        return self._turns[key]

    def _keep_talking(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._is_over.is_set()
            with contextlib.suppress(Exception):  # whatever is raised where the coordinator is gone: turns count it
                self.talk()
            self._is_over.wait(self.seconds / 2)

    def _keep_watch(self) -> None:
        problem = None
        while problem is None:
            faulthandler.dump_traceback_later(self.seconds * TURNS, exit=False, file=_STDERR)
            if self._is_over.wait(self.seconds):
                return
            problem = self.turn()
        self._end(problem)

    def _end(self, problem: str) -> None:
        # Where the log itself is what hangs, nothing can be said, and the process ends all the same.
        faulthandler.dump_traceback_later(self.seconds * TURNS, exit=True, file=_STDERR)
        closed = OSError, ValueError  # by whoever read it
        with contextlib.suppress(*closed):
            sys.stdout.flush()
        with contextlib.suppress(*closed):
            print(f"error: {problem}", file=sys.stderr, flush=True)
        if "--step-timeout" in problem:
            faulthandler.dump_traceback(file=_STDERR)
            time.sleep(3 * self.seconds)  # in which the others hear of it
        if self._process == 0:  # when the coordinator ends, JAX aborts the others in the middle of what they say
            time.sleep(3 * self.seconds)
        os._exit(LOST)

    def _who_is_behind(self) -> str:
        """Which processes the others wait for, as far as their meetings tell."""
        reports = {**self._reports, self._process: {"meetings": pulse.meetings, "waits_for": pulse.waits_for}}
        last = max(one["meetings"] for one in reports.values())
        waits = {process: one["waits_for"] for process, one in sorted(reports.items()) if one["meetings"] == last}
        waiting = {what for what in waits.values() if what is not None}
        behind = [self._name(process) for process in sorted(reports) if waits.get(process) is None]
        who = "No process is behind the others: a collective hangs in all, or all compute"
        if behind and waiting:
            who = f"{', '.join(behind)} did not come to where the others wait ({', '.join(sorted(waiting))})"
        return (
            f"{who}; the logs hold the stacks of all threads. If one step may take so long (a compilation, a large "
            f"checkpoint), raise --step-timeout; else mend what hangs: {_GOES_ON}"
        )

    def _name(self, process: int) -> str:
        if process == self._process:
            return f"process {process} (this one)"
        one = self._reports.get(process)
        return f"process {process}" + (f" (pid {one['pid']} on {one['host']})" if one else "")

    def _of(self, turns: int) -> str:
        return f"{turns * self.seconds:.0f} s"
