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
    assert len(rows) == len(alone) >= 3
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


def test_members_on_eight_devices(tmp_path):
    specs = member_specs(8, num_updates=2)
    together(specs, [tmp_path / f"on8_{index}" for index in range(8)], devices=jax.devices())
    for index in (0, 7):
        rl.main(specs[index], tmp_path / str(index))
        assert_close(rows_of(tmp_path / f"on8_{index}"), rows_of(tmp_path / str(index)))
    with pytest.raises(ValueError, match="8 devices do not divide the 3 members"):
        Population([{}] * 3, devices=jax.devices())


def test_members_are_split_over_devices():
    def where(value):
        return members.jit(lambda x: x * 2)(np.full(3, value)).rows.array.sharding.spec

    population = Population([{}] * 4, devices=jax.devices()[:2])
    assert population.run([functools.partial(where, 1.0)] * 4) == [jax.sharding.PartitionSpec("member")] * 4


def test_a_member_that_does_something_else_waits_for_nobody():
    """Members call different numbers of programs, of other shapes, and one of them fails."""

    def run(index):
        add = members.jit(lambda total, x: total + members.setting("rate", 0.5) * x, donated=("total",))
        total = np.zeros(3, np.float32)
        for number in range(index + 1):
            total = add(total, np.full(3, number + 1.0, np.float32))
        if index == 2:
            raise RuntimeError("this one")
        members.meet()
        largest = members.most(index)
        longer = members.jit(lambda x: x.sum())(np.ones(index + 2, np.float32))
        return np.asarray(total).tolist(), largest, float(longer)

    population = Population([{"rate": 1.0 + index} for index in range(4)])
    results = population.run([functools.partial(run, index) for index in range(4)])
    assert str(results[2]) == "this one" and isinstance(results[2], RuntimeError)
    del results[2]
    assert results == [([1.0] * 3, 3, 2.0), ([6.0] * 3, 3, 3.0), ([40.0] * 3, 3, 5.0)]
    sizes = [size for (name, size), _ in population.num_calls.items() if "run.<locals>.<lambda>" in name]
    assert max(sizes) == 4 and members.here() is None


def test_outside_of_a_population_nothing_is_mapped():
    assert members.setting("kl_coef", 0.5) == 0.5 and members.most(3) == 3 and members.here() is None
    assert isinstance(members.jit(lambda x: x + 1)(1.0), jax.Array)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 8}, "--launch=population: group_size differs between the trials, and one program has one; may"),
        ({"optimizer": {"b1": 0.5}}, "optimizer.b1 differs"),
        ({"max_new_tokens": 12}, "max_new_tokens"),
        ({"kl_coef": 0.0}, "kl_coef is 0 in some trials"),
        ({"rewards": [{"function": "r1jax.rewards.format:r1_zero"}]}, r"rewards\[0\].function differs"),
    ],
)
def test_what_may_not_differ_is_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        settings_of([tiny_config(), tiny_config(**changes)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh": {"data": 2}}, "mesh=.* does not go with it"),
        ({"rollout_mesh": {"data": 1}}, "rollout_mesh="),
        ({"loggers": ["wandb"]}, "loggers="),
    ],
)
def test_what_a_population_cannot_do_is_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        settings_of([tiny_config(seed=seed, **changes) for seed in (0, 1)])


CONFIG = """
from ml_collections import ConfigDict
from tests.stages.rl.test_stage import tiny_values
from tests.test_population import DENSE

def get_config():
    rl = tiny_values(init=DENSE, num_updates=2)
    return ConfigDict({{"seed": 0, "stages": {{"rl": rl}}}})
"""


def test_runs_of_a_config_leave_the_directories_of_runs(tmp_path, capsys, monkeypatch):
    (tmp_path / "rl.py").write_text(CONFIG.replace("{{", "{").replace("}}", "}"))
    runs = [
        (load_experiment(str(tmp_path / "rl.py"), [f"--config.seed={seed}"]), tmp_path / f"run{seed}")
        for seed in (0, 1)
    ]
    assert run_together(runs) == 0
    for _, folder in runs:
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["stages"]["rl"]["updates"] == 2 and (folder / "rl" / "DONE").exists()
        assert (folder / "report.html").exists()
    assert report([str(folder) for _, folder in runs] + ["--out", str(tmp_path / "both.html")]) in (0, None)
    assert re.search("run0.*run1", (tmp_path / "both.html").read_text(), re.DOTALL)
    assert run_together(runs) == 0  # again: there is nothing to do
