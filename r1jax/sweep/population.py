"""Trials that one program trains together (`r1jax.population`): what may differ between them, and its start here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1jax.pipeline import plan_stages
from r1jax.specs.config_file import ConfigError, load_experiment
from r1jax.specs.fields import leaves
from r1jax.specs.stages import RlSpec
from r1jax.sweep import start
from r1jax.sweep.trials import Trial
from r1jax.workdir.directory import write_text
from r1jax.workdir.stop import Stop

LOG, LIST = "log.txt", "population.json"
SETTINGS = ("kl_coef", "clip_low", "clip_high", "optimizer.learning_rate")
"""Numbers of an RL stage that its compiled programs hold, and that differ between members nonetheless."""
_ON_HOST = re.compile(
    r"seed|temperature|advantage|multi_objective_aggregation|init\.(path|seed)|rewards\[\d+\]\.weight"
)
"""Keys that no compiled program holds as a constant."""
_KNOWN = "seed, temperature, advantage, multi_objective_aggregation, rewards[N].weight, " + ", ".join(SETTINGS)
_POLL_SECONDS = 0.1


def settings_of(specs: Sequence[Any]) -> list[dict[str, float]]:
    """The numbers of SETTINGS that differ, of each member. specs: of the members' last stages.

    Raises ConfigError, naming the key, for a key that differs and may not, and for what a population cannot do.
    """
    first = specs[0]
    if not isinstance(first, RlSpec):
        raise ConfigError(
            f"--launch=population: the last stage is of the kind {first.stage!r}; only 'rl' can be one program"
        )
    values = [{key: value for key, value, *_ in leaves(spec)} for spec in specs]
    every = dict.fromkeys(key for of_member in values for key in of_member)
    differing = [key for key in every if any(of.get(key) != values[0].get(key) for of in values)]
    for key in differing:
        if key not in SETTINGS and not _ON_HOST.fullmatch(key):
            raise ConfigError(
                f"--launch=population: {key} differs between the trials, and one program has one; may differ: {_KNOWN}"
            )
    if "kl_coef" in differing and not all(spec.kl_coef for spec in specs):
        raise ConfigError("--launch=population: kl_coef is 0 in some trials, which keep no reference; take a small one")
    cannot = {
        "mesh": bool(first.mesh.axes()),
        "rollout_mesh": first.rollout_mesh is not None,
        "offload": bool(first.offload),
        "loggers": bool(first.loggers),
    }
    for key in (key for key, is_set in cannot.items() if is_set):
        raise ConfigError(f"--launch=population: {key}={getattr(first, key)!r} does not go with it; leave the key out")
    return [{key: float(of[key]) for key in SETTINGS if key in differing} for of in values]


def check_population(trials: Sequence[Trial]) -> None:
    """Raises ConfigError, naming the key, for trials that cannot be one program."""
    specs = []
    for trial in trials:
        config, *flags = trial.flags
        planned = plan_stages(load_experiment(config.removeprefix("--config="), flags), trial.folder)
        specs.append(planned[-1].spec)
    if specs:
        settings_of(specs)


def run_population(trials: Sequence[Trial], folder: Path, stop: Stop, *, devices: int, program: Sequence[str]) -> int:
    """Runs the trials as one program, a process of its own that ends with this one; its exit code.

    devices: parts of this machine's CPU, or accelerators, that members are split over. program: the command.
    """
    listed = [{"flags": list(trial.flags), "workdir": str(trial.folder)} for trial in trials]
    for trial in trials:
        trial.folder.mkdir(parents=True, exist_ok=True)
        (trial.folder / LOG).unlink(missing_ok=True)
    write_text(folder / LIST, json.dumps(listed, indent=2) + "\n")
    is_linux = hasattr(os, "sched_getaffinity")
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0)) if is_linux else range(os.cpu_count() or 1)))
    command = [*program, str(folder / LIST), f"--devices={devices}"]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}".strip()
    process = subprocess.Popen(
        [sys.executable, start.__file__, str(os.getpid()), cores, *command],
        env=dict(os.environ) | ({"XLA_FLAGS": flags} if devices > 1 else {}),
        start_new_session=True,  # Ctrl-C is for the sweep, which passes it on
    )
    is_asked = False
    try:
        while process.poll() is None:
            if stop.requested and not is_asked:
                process.terminate()
                is_asked = True
            time.sleep(_POLL_SECONDS)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process.returncode
