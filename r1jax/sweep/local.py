"""Trials as processes of this machine, some at a time, each with cores (and GPUs) of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from r1jax.specs.config_file import ConfigError
from r1jax.sweep import start
from r1jax.sweep.trials import Trial, Trials
from r1jax.workdir.stop import Stop

LOG = "log.txt"
"""What a trial prints; its run holds a lock of it, so that no other start of the sweep runs the trial too."""
MOST_STARTS = 4
_POLL_SECONDS = 0.1
_METRICS_SECONDS = 1.0
_GO_ON = (75, 134)  # r1jax/launch/README.md
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclasses.dataclass(frozen=True)
class Slot:
    """What one trial at a time runs on."""

    cores: tuple[int, ...]
    gpus: tuple[str, ...] = ()

    def environment(self) -> dict[str, str]:
        """XLA's threads follow the cores that a process may use; those of other libraries do not all."""
        devices = {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.gpus else {}
        return dict(os.environ) | dict.fromkeys(_THREADS, str(len(self.cores))) | devices


def make_slots(jobs: int) -> list[Slot]:
    """Divides the cores that this process may use, and the GPUs, among `jobs`. Raises ConfigError if there are fewer."""
    is_linux = hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0)) if is_linux else list(range(os.cpu_count() or 1))
    gpus = _gpus()
    for name, there in (("cores", cores), ("GPUs", gpus)):
        if jobs < 1 or 0 < len(there) < jobs:
            raise ConfigError(f"--jobs={jobs} must be at least 1 and at most the {len(there)} {name} here")
    return [Slot(tuple(_part(cores, index, jobs)), tuple(_part(gpus, index, jobs))) for index in range(jobs)]


def _part(items: Sequence, index: int, count: int) -> Sequence:
    return items[index * len(items) // count : (index + 1) * len(items) // count]


def _gpus() -> list[str]:
    """The NVIDIA GPUs that JAX would use."""
    plugins = (f"jax_cuda{version}_plugin" for version in (12, 13))
    if os.environ.get("JAX_PLATFORMS") == "cpu" or not any(map(importlib.util.find_spec, plugins)):
        return []
    if chosen := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return chosen.split(",")
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
        return [str(index) for index, _ in enumerate(listed.splitlines())]
    return []


@dataclasses.dataclass
class Running:
    """A trial at work."""

    trial: Trial
    process: subprocess.Popen
    began: float
    is_pruned: bool = False
    read_at: float = 0.0


class LocalSweep:
    """Runs the trials until none is left, a signal came or the time is up.

    Args:
      run: the command that runs a trial, to which its flags are added.
      prunes: whether trials are stopped that others are better than.
      seconds: after which no more are started and those at work are stopped; they can go on.
    """

    def __init__(
        self, trials: Trials, slots: Sequence[Slot], *, run: Sequence[str], prunes: bool, seconds: float | None = None
    ):
        self._trials, self._slots, self._run, self._prunes = trials, slots, run, prunes
        self._deadline = float("inf") if seconds is None else time.monotonic() + seconds
        self._running: dict[int, Running] = {}  # slot -> what it works at
        self._waiting: list[Trial] = []  # for a shared stage that another trial makes, or for what a killed sweep left
        self._starts: dict[int, int] = {}  # number -> how often it was started
        self._is_ending = self._said_waiting = False

    def go(self, stop: Stop) -> bool:
        """Whether all trials have ended; else the same command goes on. Raises SweepError; nothing runs on then."""
        try:
            while True:
                if not self._is_ending and (stop.requested or time.monotonic() > self._deadline):
                    self._is_ending = True
                    self._terminate()
                for slot, running in list(self._running.items()):
                    self._follow(slot, running)
                if not self._is_ending:
                    self._fill()
                if not self._running and (self._is_ending or not self._waiting):
                    return not self._is_ending
                time.sleep(_POLL_SECONDS)
        finally:
            self._terminate()
            for running in self._running.values():
                running.process.wait()

    def _terminate(self) -> None:
        for running in self._running.values():
            running.process.terminate()

    def _fill(self) -> None:
        """Starts a trial on each free slot."""
        for slot in range(len(self._slots)):
            if slot in self._running:
                continue
            trial, log = self._next()
            if trial is None or log is None:
                return
            with log:
                self._start(slot, trial, log)

    def _next(self) -> tuple[Trial | None, IO | None]:
        """A trial that can be started now, with its log locked. As many as there are slots may wait for another."""
        for trial in list(self._waiting):
            if log := self._ready(trial):
                self._waiting.remove(trial)
                return trial, log
        while len(self._waiting) < len(self._slots) and (trial := self._trials.next()):
            if trial.is_done:  # the sweep was killed before it had taken this down
                self._end(trial, 0)
            elif log := self._ready(trial):
                return trial, log
            else:
                self._waiting.append(trial)
        return None, None

    def _ready(self, trial: Trial) -> IO | None:
        """The locked log of a trial, if nothing is in the way of its start."""
        making = {path for running in self._running.values() for path in running.trial.shared.values()}
        if any(path in making and not (path / "DONE").exists() for path in trial.shared.values()):
            return None
        trial.folder.mkdir(parents=True, exist_ok=True)
        log = (trial.folder / LOG).open("ab")
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.close()
            if not self._said_waiting:
                print(f"waiting for what a killed sweep has left at work in {trial.folder}", flush=True)
            self._said_waiting = True
            return None
        return log

    def _start(self, slot: int, trial: Trial, log: IO) -> None:
        cores = ",".join(map(str, self._slots[slot].cores))
        command = [*self._run, *trial.flags, f"--workdir={trial.folder}"]
        process = subprocess.Popen(
            [sys.executable, start.__file__, str(os.getpid()), cores, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=self._slots[slot].environment(),
            start_new_session=True,  # Ctrl-C is for the sweep, which passes it on
        )
        self._running[slot] = Running(trial, process, time.monotonic())
        self._starts[trial.number] = self._starts.get(trial.number, 0) + 1
        print(f"{trial.folder.name}: started on cores {cores}", flush=True)

    def _follow(self, slot: int, running: Running) -> None:
        """Takes the end of a trial, or stops it where others are better."""
        code = running.process.poll()
        if code is not None:
            del self._running[slot]
            self._end(running.trial, code, running)
            return
        now = time.monotonic()
        if self._prunes and not running.is_pruned and now > running.read_at + _METRICS_SECONDS:
            running.read_at = now
            if self._trials.should_prune(running.trial):
                running.is_pruned = True
                running.process.terminate()

    def _end(self, trial: Trial, code: int, running: Running | None = None) -> None:
        """Records what became of a trial whose run has ended with an exit code, negative for a signal."""
        name = trial.folder.name
        took = f" ({time.monotonic() - running.began:.0f} s)" if running else ""
        if code == 0:
            print(f"{name}: {self._trials.metric} {self._trials.complete(trial):.4g}{took}", flush=True)
        elif running and running.is_pruned:
            self._trials.prune(trial)
            print(f"{name}: stopped, others are better{took}", flush=True)
        elif self._is_ending and (code < 0 or code in _GO_ON):
            print(f"{name}: stopped, can go on{took}", flush=True)
        elif (code < 0 or code in _GO_ON) and self._starts[trial.number] < MOST_STARTS:
            print(f"{name}: ended with exit code {code}{took}, goes on", flush=True)
            self._waiting.append(trial)
        else:
            error = last_words(trial.folder / LOG) or f"exit code {code}"
            self._trials.fail(trial.number, error)
            print(f"{name}: failed with exit code {code}: {error}", flush=True)


def last_words(log: Path) -> str:
    """The last line that begins with "error:", else the last one."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line.startswith("error: ")), "".join(lines[-1:]))[:500]
