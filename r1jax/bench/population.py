"""Updates of a population against those of its members run one after the other, in one process and in turn.

The policy is the one that the config's first stage starts from, and members differ in seed and learning rate. Both
sides are ``r1jax.stages.rl``'s ``main``, so all that a run does is in the times: rewards, files, metrics. A turn's time
is that from its first update to its last, which leaves compilation and evaluations out; ``with_compilation`` is of the
whole runs, with the compilation cache as it is.
"""

import dataclasses
import functools
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from r1jax.members import Population
from r1jax.pipeline import plan_stages
from r1jax.specs.config_file import load_experiment
from r1jax.specs.rollout import EvalSpec
from r1jax.specs.stages import RlSpec
from r1jax.stages import rl


def run(config_path: str, *, members: int, updates: int, singles: int, turns: int) -> dict[str, Any]:
    """``turns`` times a population and ``singles`` of its members alone, each of ``updates`` updates.

    The population is split over as many of the devices here as divide it. "ratio" is the time of an update of all
    members one by one over that of the population, the median of the turns.
    """
    stages = [stage.spec for stage in plan_stages(load_experiment(config_path), Path("bench"))]
    spec = next(stage for stage in stages if isinstance(stage, RlSpec))
    short = EvalSpec(every=updates * spec.updates_per_phase, problems=1, final_problems=1, samples=1, final_samples=1)
    changes = {"init": stages[0].init, "num_updates": updates * spec.updates_per_phase, "eval": short}
    rate = spec.optimizer.learning_rate
    specs = [
        dataclasses.replace(
            spec,
            seed=seed,
            optimizer=dataclasses.replace(spec.optimizer, learning_rate=rate * (1 + seed / 8)),
            **changes,
        )
        for seed in range(members)
    ]
    devices = jax.devices()[: max(n for n in range(1, len(jax.devices()) + 1) if members % n == 0)]
    rows = []
    for turn in range(turns):
        row: dict[str, Any] = {"load_average": os.getloadavg()[0]}
        with tempfile.TemporaryDirectory() as folder:
            population = Population(
                [{"optimizer.learning_rate": spec.optimizer.learning_rate} for spec in specs], devices=devices
            )
            begin = time.perf_counter()
            paths = [Path(folder) / str(index) for index in range(members)]
            for result in population.run(
                [functools.partial(rl.main, spec, path) for spec, path in zip(specs, paths, strict=True)]
            ):
                if isinstance(result, BaseException):
                    raise result
            whole = time.perf_counter() - begin
            row |= {"population": max(map(_seconds, paths)), "population_with_compilation": whole}
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            for index in range(singles):
                rl.main(specs[index], Path(folder) / str(index))
            whole = (time.perf_counter() - begin) / singles
            row["single"] = statistics.mean(_seconds(Path(folder) / str(index)) for index in range(singles))
            row["single_with_compilation"] = whole
        row["ratio"] = members * row["single"] / row["population"]
        row["ratio_with_compilation"] = members * whole / row["population_with_compilation"]
        print(f"turn {turn}: {json.dumps(row)}", flush=True)
        rows.append(row)
    calls = {f"{name} of {count}": number for (name, count), number in sorted(population.num_calls.items())}
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    return {"config": config_path, "members": members, "devices": len(devices), **medians, "calls": calls}


def _seconds(workdir: Path) -> float:
    """Seconds from the first update's row to the last one's, by the number of updates between them."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    times = [row["time"] for row in rows if "time/step" in row]
    return (times[-1] - times[0]) / (len(times) - 1)
