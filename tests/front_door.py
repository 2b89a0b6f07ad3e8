"""The front door on stages that cost nothing: what the tests of `r1jax.run` and `r1jax.pipeline` share.

A test file takes the fixtures over by name: ``stage, door, quiet_cache = front_door.stage, ...``.
"""

import os
import signal
import sys
import types
from dataclasses import dataclass
from typing import Any, Literal

import pytest

import r1jax.stages
from r1jax import run
from r1jax.specs.fields import Natural, PathText, option
from r1jax.specs.policy import AnyInit
from r1jax.specs.rewards import AnyReward
from r1jax.specs.stages import STAGES, StageSpec
from r1jax.specs.tasks import FilesSpec
from r1jax.workdir.directory import mark_done, open_workdir
from r1jax.workdir.lineage import record_lineage
from r1jax.workdir.stop import Stopped

CONFIG = """
from ml_collections import ConfigDict

def get_config(argument="3"):
    config = ConfigDict({"seed": 1}, sort_keys=False)
    config.stages = ConfigDict(sort_keys=False)
    config.stages.zero = ConfigDict({
        "stage": "count", "seed": config.get_ref("seed"), "num_updates": int(argument), "learning_rate": 1e-3,
        "rewards": [{"function": "a:b", "weight": 1.0}], "lengths": (8, 16), "cap": None, "caps": [[0, 8]]})
    config.stages.after = ConfigDict({"stage": "count", "start": "{zero}/checkpoints", "num_updates": 1, "name": "{x}"})
    return config
"""


@dataclass(frozen=True, kw_only=True)
class CountSpec(StageSpec):
    """A stage that trains nothing."""

    stage: Literal["count"] = "count"
    num_updates: Natural = option(1, "Updates of the whole run.", how=True)
    learning_rate: float = option(0.1, "Of nothing.")
    rewards: tuple[AnyReward, ...] = option((), "What is paid for.")
    lengths: tuple[int, ...] = option((), "Some numbers.")
    cap: float | None = option(None, "A number, or none.")
    caps: tuple[tuple[int, ...], ...] = option((), "Pairs.")
    log_every: int = option(1, "Updates between rows.", how=True)
    name: str = option("", "A text.")
    names: tuple[str, ...] = option((), "Texts.")
    start: PathText | None = option(None, "What it begins from.")
    init: AnyInit | None = option(None, "The policy that it begins from.")
    models: tuple[AnyInit | AnyReward, ...] = option((), "Models that it reads.")
    sets: tuple[FilesSpec, ...] = option((), "Files that it reads.")
    options: dict[str, Any] = option(factory=dict, explanation="Anything.")


SHARED = CONFIG.replace('"stage": "count", "seed"', '"workdir": "{workdir}/../base-{hash}", "stage": "count", "seed"')


@pytest.fixture(autouse=True)
def quiet_cache(monkeypatch):
    """The compilation cache of the test process stays as conftest set it."""
    monkeypatch.setattr(run, "use_compilation_cache", lambda: None)


@pytest.fixture
def stage(monkeypatch):
    """A stage named "count" which notes what it was called with, and can be told to fail or at which call to be stopped.

    A signal comes while the stage works (`signal_at`: its last update) or makes it give up (`stop_at`).
    """
    module = types.ModuleType("r1jax.stages.count")
    module.calls, module.error, module.signal_at, module.stop_at = [], None, None, None

    def check(spec, previews):
        if spec.num_updates < 1:
            raise ValueError(f"num_updates={spec.num_updates} must be at least 1")

    def main(spec, workdir):
        module.calls.append((workdir, spec))
        with open_workdir(workdir, spec):
            record_lineage(workdir, spec)
            if module.error:
                raise module.error
            if len(module.calls) == module.signal_at:
                os.kill(os.getpid(), signal.SIGTERM)
            if len(module.calls) == module.stop_at:
                raise Stopped
            (workdir / "checkpoints" / str(spec.num_updates)).mkdir(parents=True, exist_ok=True)
            summary = {
                "updates": spec.num_updates,
                "wall_seconds": 30.0,
                "before": {"pass@1": 0.156, "cons@16": 0.25},
                "after": {"pass@1": 0.779, "cons@16": 0.867},
            }
            mark_done(workdir, summary)
        return summary

    module.check, module.main = check, main
    monkeypatch.setitem(STAGES, "count", CountSpec)
    monkeypatch.setitem(sys.modules, "r1jax.stages.count", module)
    monkeypatch.setattr(r1jax.stages, "count", module, raising=False)
    return module


@pytest.fixture
def door(tmp_path, stage, capsys):
    """Runs the front door on CONFIG; returns exit code, standard output, standard error."""
    (tmp_path / "zero.py").write_text(CONFIG)

    def call(*flags, argument=""):
        code = run.main([f"--config={tmp_path / 'zero.py'}{argument}", f"--workdir={tmp_path / 'w'}", *flags])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
