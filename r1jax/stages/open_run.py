"""The frame of every stage's main: work directory, mesh, progress line, signals, and the loop of the stages that train.

README.md shows how a main uses it.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from r1jax import members
from r1jax.launch.device_memory import describe_memory
from r1jax.policies.policy import Policy, load_init
from r1jax.processes import is_first
from r1jax.sharding import make_mesh
from r1jax.specs.stages import MeshStageSpec, StageSpec, TrainingSpec
from r1jax.text.chat import tokenizer_for
from r1jax.training.checkpoint import Checkpoints
from r1jax.workdir.directory import mark_done, open_workdir, require_space
from r1jax.workdir.lineage import record_lineage
from r1jax.workdir.metrics import MetricsWriter
from r1jax.workdir.progress import Progress
from r1jax.workdir.stop import Stop, Stopped, graceful_stop


@dataclasses.dataclass
class OpenRun:
    """A stage that is under way in its work directory; made by ``open_run``."""

    spec: Any  # a StageSpec
    path: Path  # the work directory
    mesh: Any  # what arrays are laid out on; None where the stage computes nothing on devices
    stop: Stop
    progress: Progress
    checkpoints: Any  # Checkpoints; None where the stage trains nothing
    lineage: dict[str, Any]  # the inputs by the keys of the spec that name them
    resources: contextlib.ExitStack  # what is closed when the run ends
    started: float  # time.monotonic() of this start
    earlier_seconds: float = 0.0  # of the starts before
    metrics: Any = None  # the MetricsWriter, once it is open
    # Of a stage that trains; ``restore`` sets them, but for the first state.
    state: Any = None
    updates: int = 0  # done
    total: int = 0  # updates of the whole run
    kept: dict[str, Any] = dataclasses.field(default_factory=dict)  # what a checkpoint holds besides the state
    streams: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # iterators whose position it holds
    began: float = 0.0  # time.perf_counter() of the update under way

    def load_policy(self, *, template: str | None = None) -> tuple[Policy, Any, Any]:
        """(policy, params, buffers) of ``init`` on the mesh; a stage that trains leaves model.json and tokenizer/.

        template: whose end of a turn the tokenizer that is left has; None: it stays as it was.
        """
        policy, params, buffers = load_init(self.spec.init, mesh=self.mesh, seed=self.spec.seed)
        if template is not None:
            policy = dataclasses.replace(policy, tokenizer=tokenizer_for(policy.tokenizer, template))
        if isinstance(self.spec, TrainingSpec):
            policy.save(self.path)
        return policy, params, buffers

    def open_metrics(self, *, total: int, done: int, evaluates: bool = False) -> MetricsWriter:
        """The writer of metrics.jsonl, of ``total`` updates or batches of which so many were done before.

        evaluates: whether an evaluation along the way comes next.
        """
        options = {"resume_step": done, "progress": self.progress, "evaluates_again": evaluates}
        options["loggers"] = getattr(self.spec, "loggers", ())
        self.metrics = self.resources.enter_context(MetricsWriter(self.path, total=total, **options))
        return self.metrics

    def restore(self, *, total: int, streams: Mapping[str, Any], evaluate_every: int = 0, **kept: Any) -> None:
        """Goes on from the latest checkpoint, if there is one, laid out like ``state``; opens the metrics.

        streams: have ``get_state`` and ``set_state``. evaluate_every: updates between evaluations, the best of which is
        kept; 0: none. kept: first values, plain JSON, of what else checkpoints hold.
        Raises WorkdirError where the checkpoints to come do not fit on the disk.
        """
        require_space(self.path, self.checkpoints.bytes_to_come(self.state, with_best=bool(evaluate_every)))
        self.streams, self.kept, self.total = streams, kept, total
        if self.checkpoints.latest_step() is not None:
            self.progress.phase("restoring")
            self.state, extra = self.checkpoints.restore(self.state)
            self.state = members.together(self.state)
            self.earlier_seconds = extra.pop("wall_seconds")
            for name, stream in streams.items():
                stream.set_state(extra.pop(name))
            self.kept = kept | extra
        self.updates = int(self.state["step"])
        evaluates = bool(evaluate_every) and 0 < self.updates < total and self.updates % evaluate_every == 0
        self.open_metrics(total=total, done=self.updates, evaluates=evaluates)

    def loop(self, step: int = 1) -> Iterator[int]:
        """The number of updates done before each turn of ``step`` updates, until there are ``total``.

        A turn takes ``state`` on. Checkpoints are saved when they are due and at the end. Raises Stopped between turns.
        """
        while self.updates < self.total:
            members.meet()
            self.stop.check()
            self.began = time.perf_counter()
            yield self.updates
            self.updates += step
            if self.checkpoints.is_due(self.updates):
                self.save()
        self.save()

    def seconds(self) -> float:
        """Since the turn under way began."""
        return time.perf_counter() - self.began

    def log(self, row: Mapping[str, Any], *, every: int) -> None:
        """Writes the row of the update under way, if it is one of ``every`` or the last."""
        number = self.updates + 1
        if number % every == 0 or number == self.total:
            self.metrics.write(number, {**row, "time/step": self.seconds()})

    def wall_seconds(self) -> float:
        """Seconds of running, over all starts that the checkpoint gone on with knows of."""
        return self.earlier_seconds + time.monotonic() - self.started

    def _extra(self) -> dict[str, Any]:
        positions = {name: stream.get_state() for name, stream in self.streams.items()}
        return positions | self.kept | {"wall_seconds": self.wall_seconds()}

    def save(self) -> None:
        """Saves a checkpoint, in the background; see ``Checkpoints.save``."""
        self.progress.phase("saving")
        self.checkpoints.save(self.updates, self.state, extra=self._extra())
        self.progress.phase("")

    def save_best(self, scores: Mapping[str, float], *, protocol: str) -> None:
        """Saves a checkpoint if its held-out score is the highest yet: pass@1, or the reward where that is not there.

        Scores of another ``protocol`` are not compared.
        """
        metric = "pass@1" if "pass@1" in scores else "reward"
        if metric in scores:
            named, value = f"{metric} of {protocol}", scores[metric]
            self.checkpoints.save_best(self.updates, self.state, extra=self._extra(), metric=named, value=value)

    def mark_done(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Waits for the last checkpoint and writes the summary, with "wall_seconds" and "seed" unless it has them."""
        if self.checkpoints is not None:
            self.progress.phase("saving")
            self.checkpoints.wait()
        summary = {"wall_seconds": self.wall_seconds(), "seed": self.spec.seed} | dict(summary)
        mark_done(self.path, summary)
        self.progress.phase("")
        return summary


@contextlib.contextmanager
def open_run(spec: StageSpec, workdir: str | Path) -> Iterator[OpenRun]:
    """Opens the work directory of a stage for as long as it runs; a run that is stopped saves what it has.

    Raises what ``open_workdir``, ``Checkpoints`` and ``record_lineage`` raise.
    """
    mesh = make_mesh(spec.mesh.axes()) if isinstance(spec, MeshStageSpec) else None
    with contextlib.ExitStack() as stack:
        started = time.monotonic()
        path = stack.enter_context(open_workdir(workdir, spec))
        memory = None if mesh is None else functools.partial(describe_memory, mesh.local_devices)
        shown = is_first() and not members.here()
        progress = stack.enter_context(contextlib.closing(Progress(shown=shown, memory=memory)))
        if mesh is not None:
            stack.enter_context(jax.set_mesh(mesh))
        stop = stack.enter_context(graceful_stop())
        lineage = record_lineage(path, spec)
        checkpoints = None
        if isinstance(spec, TrainingSpec):
            checkpoints = Checkpoints(path, keep=spec.keep_checkpoints, every=spec.checkpoint_every)
            stack.enter_context(checkpoints)
        run = OpenRun(spec, path, mesh, stop, progress, checkpoints, lineage, stack, started)
        try:
            yield run
        except Stopped:
            if run.updates:  # else there is nothing yet that a new start would not have
                run.save()
            raise
