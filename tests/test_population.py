"""A population: its members are what runs by themselves are; what may not differ between them is refused."""

import functools
import json
import re

import jax
import numpy as np
import pytest

from r1jax import members
from r1jax.members import Population
from r1jax.population import run_together
from r1jax.report.__main__ import main as report
from r1jax.specs.config_file import ConfigError, load_experiment
from r1jax.stages.rl import stage as rl
from r1jax.sweep.population import settings_of
from r1jax.training.checkpoint import checkpoint_steps
from tests.stages.rl.test_stage import LENGTH, tiny_config
from tests.tiny import POLICY, rows_of

pytestmark = pytest.mark.usefixtures("quick_compilation")

DENSE = POLICY | {
    "preset": "mini_qwen",
    "model": {
        "model_dim": 16,
        "ffn_dim": 32,
        "num_layers": 1,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 8,
        "init_std": 0.2,
    },
}
"""Compiles in a third of the time of POLICY."""


def member_specs(count, **changes):
    """Members that differ in all that a population lets numbers differ in."""
    signs = {"function": "r1jax.rewards.format:r1_zero", "name": "format"}
    return [
        tiny_config(
            init=DENSE,
            seed=index,
            temperature=1.0 + index / 8,
            kl_coef=0.01 * (1 + index),
            clip_low=0.1 * (1 + index),
            clip_high=0.2 * (1 + index),
            optimizer={"learning_rate": 0.01 * (1 + index)},
            rewards=[LENGTH | {"weight": 1.0 + index}, signs | {"weight": 2.0 - index / 2}],
            **{"num_updates": 4, "updates_per_phase": 2, "rows_per_microbatch": 2} | changes,
        )
        for index in range(count)
    ]


def together(specs, folders, **options):
    population = Population(settings_of(specs), **options)
    results = population.run([functools.partial(rl.main, *each) for each in zip(specs, folders, strict=True)])
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return population, results


def assert_close(rows, alone):
    assert len(rows) == len(alone) > 3
    for row, other in zip(rows, alone, strict=True):
        assert row.keys() == other.keys()
        for key, value in row.items():
            np.testing.assert_allclose(value, other[key], atol=1e-5, rtol=1e-5, err_msg=key)


def test_four_members_are_what_they_are_alone(tmp_path):
    specs = member_specs(4)
    folders = [tmp_path / f"member{index}" for index in range(4)]
    population, results = together(specs, folders)
    assert population.num_calls["make_update.<locals>.apply", 4] == 4  # all in one program, each time
    for index, spec in enumerate(specs):
        summary = rl.main(spec, tmp_path / str(index))
        rows = rows_of(folders[index])
        assert_close(rows, rows_of(tmp_path / str(index)))
        assert results[index]["after"]["mean_length"] == summary["after"]["mean_length"]
        assert checkpoint_steps(folders[index]) == checkpoint_steps(tmp_path / str(index))
        texts = [(folder / "completions").glob("*.jsonl") for folder in (folders[index], tmp_path / str(index))]
        ours, theirs = ([path.read_text().count("\n") for path in sorted(paths)] for paths in texts)
        assert ours == theirs and sum(ours)
    rates = {row["learning_rate"] for folder in folders for row in rows_of(folder) if "learning_rate" in row}
    assert len(rates) == 4
