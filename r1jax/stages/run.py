"""What every stage's `main` begins and ends with: the work directory, signals, the ambient mesh, checkpoints, the clock."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from r1jax.specs.stages import TrainingSpec
from r1jax.training.checkpoint import Checkpoints
from r1jax.workdir.directory import Workdir, open_workdir
from r1jax.workdir.lineage import record_lineage
from r1jax.workdir.stop import Stop, graceful_stop


@dataclasses.dataclass
class Run:
    """A stage at work; made by ``open_run``."""

    workdir: Workdir
    stop: Stop
    lineage: Mapping[str, Any]
    """What the stage reads, by the key that names it."""
    _checkpoints: Checkpoints | None
    _started: float
    _earlier_seconds: float = 0.0

    @property
    def path(self) -> Path:
        """The work directory."""
        return self.workdir.path

    @property
    def checkpoints(self) -> Checkpoints:
        """Those of a stage that trains."""
        assert self._checkpoints is not None
        return self._checkpoints

    def wall_seconds(self) -> float:
        """Seconds of running, over all starts that left a checkpoint."""
        return self._earlier_seconds + time.monotonic() - self._started

    def restore(self, state: Any, *, with_best: bool = False) -> tuple[Any, dict[str, Any] | None]:
        """(state, extra) of the latest checkpoint; the state given and None where there is none.

        Raises WorkdirError unless the disk has room for the checkpoints to come (with_best: one more, see ``save_best``).
        """
        self.workdir.require_space(self.checkpoints.bytes_to_come(state, with_best=with_best))
        if self.checkpoints.latest_step() is None:
            return state, None
        state, extra = self.checkpoints.restore(state)
        self._earlier_seconds = extra["wall_seconds"]
        return state, extra

    def save(self, updates: int, state: Any, *, extra: Mapping[str, Any]) -> None:
        """Saves the state after so many updates, with what the loop needs to go on."""
        self.checkpoints.save(updates, state, extra=self._with_seconds(extra))

    def save_best(self, updates: int, state: Any, *, extra: Mapping[str, Any], metric: str, value: float) -> None:
        """Saves the state, to be kept, if its held-out score is the highest yet."""
        self.checkpoints.save_best(updates, state, extra=self._with_seconds(extra), metric=metric, value=value)

    def mark_done(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Writes the summary, with "wall_seconds" where it has none, when all checkpoints are on disk. Returns it."""
        if self._checkpoints is not None:
            self._checkpoints.wait()
        summary = {"wall_seconds": self.wall_seconds(), **summary}
        self.workdir.mark_done(summary)
        return summary

    def _with_seconds(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        return {**extra, "wall_seconds": self.wall_seconds()}


@contextlib.contextmanager
def open_run(spec: Any, workdir: str | Path, mesh: Mesh | None = None) -> Iterator[Run]:
    """Opens the work directory of a stage, with ``mesh`` as the ambient one and signals caught; see ``Run``.

    Raises WorkdirError as ``open_workdir`` and ``record_lineage`` do.
    """
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(open_workdir(workdir, spec))
        if mesh is not None:
            stack.enter_context(jax.set_mesh(mesh))
        stop = stack.enter_context(graceful_stop())
        checkpoints = None
        if isinstance(spec, TrainingSpec):
            checkpoints = Checkpoints(opened.path, keep=spec.keep_checkpoints, every=spec.checkpoint_every)
            stack.enter_context(checkpoints)
        yield Run(opened, stop, record_lineage(opened.path, spec), checkpoints, started)
