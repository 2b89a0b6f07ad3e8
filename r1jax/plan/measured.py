"""`r1jax plan --local`: two timed updates of a stage on this machine, after one that compiles; what they took.

They are the stage's own: its `main` in a temporary directory, with fewer updates and the smallest evaluations. For RL an
update is a phase divided by its updates: sampling, scoring, log-probs and update. A stage whose policy is still to be
made starts from the untrained model that this one is trained from: the arrays are as large, but what it writes is not
what it will write.
"""

import contextlib
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from r1jax.launch.device_memory import describe_memory
from r1jax.pipeline import PlannedStage, plan_stages
from r1jax.plan.room import check_room
from r1jax.policies.preview import Previews
from r1jax.sharding import make_mesh
from r1jax.specs.config_file import Experiment
from r1jax.specs.policy import AnyInit, StageInit
from r1jax.specs.stages import RlSpec, SupervisedSpec
from r1jax.workdir.read import read_stage


@dataclasses.dataclass(frozen=True)
class Measured:
    """What two timed updates say of a stage."""

    first_seconds: float  # of the first phase or update, with its compilation
    seconds: float  # of an update
    memory: str  # the most that was taken, of how much
    num_updates: int | None  # of the whole stage; None where it follows from data
    updates_per_phase: int  # 1 where there are no phases
    mean_length: float | None  # tokens of the responses, where some were sampled
    is_untrained: bool  # the policy was still to be made

    def lines(self) -> list[str]:
        """For a person."""
        per_phase = self.seconds * self.updates_per_phase
        compiling = max(self.first_seconds - per_phase, 0.0)
        lines = [
            f"{self.memory} at the peak",
            f"first {'phase' if self.updates_per_phase > 1 else 'update'}: {compiling:.0f} s more than the next ones, for compilation",
            f"an update: {self.seconds:.3g} s",
        ]
        if self.num_updates is not None:
            minutes = (self.num_updates * self.seconds + compiling) / 60
            lines.append(f"the whole stage: {self.num_updates:,} updates, about {minutes:.3g} min, without evaluations")
        if self.mean_length is not None:
            whose = (
                "an untrained policy, which seldom ends by itself" if self.is_untrained else "the policy of the start"
            )
            lines.append(
                f"lengths change in the course of RL, and times with them; these were {self.mean_length:.0f} tokens a "
                f"response, of {whose}"
            )
        return lines


def measure(experiment: Experiment, name: str | None = None) -> tuple[str, Measured]:
    """(name of the stage, what two updates of it took); the last stage that trains where none is named.

    Raises ValueError for a stage that has no updates or is unknown, and what its `check` raises.
    """
    planned = plan_stages(experiment, Path("runs") / Path(experiment.file).stem)
    stages = {stage.name: stage for stage in planned if isinstance(stage.spec, RlSpec | SupervisedSpec)}
    name = name or next(reversed(stages), None)
    if name is None or name not in stages:
        there = ", ".join(stages) or "none"
        raise ValueError(f"--stage={name}: --local times the updates of supervised and RL stages; there are {there}")
    stage = stages[name]
    previews = Previews({str(other.workdir): other.spec for other in planned[: planned.index(stage)]})
    init, is_untrained = _init_of(stage.spec.init, planned)
    spec = _shortened(dataclasses.replace(stage.spec, init=init))
    preview = previews.policy(stage.spec.init, seed=stage.spec.seed)
    if preview is not None:
        check_room(stage.spec, preview.config, make_mesh(stage.spec.mesh.axes()))
    with tempfile.TemporaryDirectory(prefix="r1jax_plan_") as folder:
        log = Path(folder) / "log.txt"
        with log.open("w") as file, contextlib.redirect_stdout(file):
            stage.module.main(spec, Path(folder) / name)
        metrics = read_stage(Path(folder) / name).metrics
    phase = getattr(spec, "updates_per_phase", 1)
    first, *timed = metrics["time/step"].values
    lengths = metrics.get("completions/mean_length")
    return name, Measured(
        first_seconds=float(first),
        seconds=float(np.mean(timed)) / phase,
        memory=describe_memory(jax.local_devices()),
        num_updates=stage.spec.num_updates,
        updates_per_phase=phase,
        mean_length=None if lengths is None else float(lengths.values[-1]),
        is_untrained=is_untrained,
    )


def _init_of(init: AnyInit, planned: list[PlannedStage]) -> tuple[AnyInit, bool]:
    """(what the stage can start from now, whether it stands for a policy that is still to be trained)."""
    if not isinstance(init, StageInit) or (Path(init.path) / "model.json").is_file():
        return init, False
    maker: Any = next((stage.spec for stage in planned if str(stage.workdir) == init.path), None)
    if maker is None or not hasattr(maker, "init"):
        raise ValueError(f"init.path={init.path!r} is no work directory of a stage that trains a model")
    before = _init_of(maker.init, planned)[0]
    return dataclasses.replace(before, model={**before.model, **init.model}), True


def _shortened(spec: RlSpec | SupervisedSpec) -> RlSpec | SupervisedSpec:
    """Three updates, or phases, with every one logged and the smallest evaluations."""
    optimizer = dataclasses.replace(spec.optimizer, warmup_steps=0)
    if isinstance(spec, SupervisedSpec):
        changes: dict[str, Any] = {"num_updates": 3, "num_epochs": None, "log_every": 1}
    else:
        few = {
            "every": 3 * spec.updates_per_phase,
            "problems": 1,
            "final_problems": 1,
            "samples": 1,
            "final_samples": 1,
        }
        changes = {
            "num_updates": 3 * spec.updates_per_phase,
            "eval": dataclasses.replace(spec.eval, **few),
            "tasks": tuple(task for task in spec.tasks if task.from_update == 0),
            "rewards": tuple(reward for reward in spec.rewards if reward.from_update == 0),
            "overlap": False,
        }
    return dataclasses.replace(spec, optimizer=optimizer, loggers=(), **changes)
