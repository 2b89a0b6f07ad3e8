"""What every stage's main begins and ends with: its work directory, mesh, checkpoints, lineage, progress line and stop."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from r1jax.processes import is_first
from r1jax.specs.stages import RlSpec, StageSpec, TrainingSpec
from r1jax.training.checkpoint import Checkpoints
from r1jax.workdir.directory import mark_done, open_workdir, require_space
from r1jax.workdir.lineage import record_lineage
from r1jax.workdir.metrics import MetricsWriter
from r1jax.workdir.progress import Progress
from r1jax.workdir.stop import Stop, graceful_stop


@dataclasses.dataclass
class OpenRun:
    """A stage that is under way in its work directory; made by ``open_run``."""

    spec: StageSpec
    path: Path  # the work directory
    stop: Stop
    progress: Progress
    checkpoints: Any  # Checkpoints; None where the stage trains nothing
    lineage: dict[str, Any]  # the inputs by the keys of the spec that name them
    started: float  # time.monotonic() of this start
    earlier_seconds: float = 0.0  # of the starts before

    def metrics(self, *, total: int, done: int) -> MetricsWriter:
        """The writer of metrics.jsonl, of ``total`` updates or batches of which so many were done before."""
        return MetricsWriter(self.path, total=total, resume_step=done, progress=self.progress)

    def wall_seconds(self) -> float:
        """Seconds of running, over all starts that the checkpoint gone on with knows of."""
        return self.earlier_seconds + time.monotonic() - self.started

    def restore(self, state: Any, **fresh: Any) -> tuple[Any, dict[str, Any]]:
        """(state, extra) of the latest checkpoint, laid out like `state`; (state, fresh) where nothing has been saved yet.

        Raises WorkdirError where the checkpoints to come do not fit on the disk.
        """
        to_come = self.checkpoints.bytes_to_come(state, with_best=isinstance(self.spec, RlSpec))
        require_space(self.path, to_come)
        if self.checkpoints.latest_step() is None:
            return state, fresh
        self.progress.phase("restoring")
        state, extra = self.checkpoints.restore(state)
        self.earlier_seconds = extra["wall_seconds"]
        return state, extra

    def is_due(self, updates: int) -> bool:
        """Whether a checkpoint is due after so many updates."""
        return self.checkpoints.is_due(updates)

    def save(self, updates: int, state: Any, extra: Mapping[str, Any]) -> None:
        """Saves a checkpoint, in the background; see ``Checkpoints.save``."""
        self.progress.phase("saving")
        self.checkpoints.save(updates, state, extra=self._timed(extra))
        self.progress.phase("")

    def save_best(self, updates: int, state: Any, extra: Mapping[str, Any], *, metric: str, value: float) -> bool:
        """Saves a checkpoint if its held-out score is the highest yet; see ``Checkpoints.save_best``."""
        return self.checkpoints.save_best(updates, state, extra=self._timed(extra), metric=metric, value=value)

    def mark_done(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Waits for the last checkpoint and writes the summary, with "wall_seconds" and "seed" unless it has them."""
        if self.checkpoints is not None:
            self.progress.phase("saving")
            self.checkpoints.wait()
        summary = {"wall_seconds": self.wall_seconds(), "seed": self.spec.seed} | dict(summary)
        mark_done(self.path, summary)
        self.progress.phase("")
        return summary

    def _timed(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        return {**extra, "wall_seconds": self.wall_seconds()}


@contextlib.contextmanager
def open_run(spec: StageSpec, workdir: str | Path, mesh: jax.sharding.Mesh | None = None) -> Iterator[OpenRun]:
    """Opens the work directory of a stage for as long as it runs; the README shows how a main uses it.

    mesh: what arrays are laid out on meanwhile; None for a stage that computes nothing on devices.

    Raises what ``open_workdir``, ``Checkpoints`` and ``record_lineage`` raise.
    """
    with contextlib.ExitStack() as stack:
        started = time.monotonic()
        path = stack.enter_context(open_workdir(workdir, spec))
        progress = stack.enter_context(contextlib.closing(Progress(shown=is_first())))
        if mesh is not None:
            stack.enter_context(jax.set_mesh(mesh))
        stop = stack.enter_context(graceful_stop())
        lineage = record_lineage(path, spec)
        checkpoints = None
        if isinstance(spec, TrainingSpec):
            checkpoints = Checkpoints(path, keep=spec.keep_checkpoints, every=spec.checkpoint_every)
            stack.enter_context(checkpoints)
        yield OpenRun(spec, path, stop, progress, checkpoints, lineage, started)
