"""A grid of runs in this process, and what a sweep has left, read again."""

import json

import pytest

from r1jax.specs.config_file import ConfigError, load_experiment, with_flags
from r1jax.sweep import grid
from r1jax.sweep.grid import read_sweep, run_grid
from r1jax.workdir.read import NotAWorkdirError

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    rl = {"stage": "rl", "init": {"kind": "stage", "path": "{base}"}, "tasks": [{"kind": "mini", "name": "pair_sum"}],
          "rewards": [{"function": "a:b"}]}
    base = {"stage": "supervised", "seed": 0, "init": {"kind": "hf", "path": "m"}, "data": {"path": "d"}, "num_updates": 1}
    return ConfigDict({"seed": 0, "stages": ConfigDict({"base": base, "rl": rl}, sort_keys=False)})
"""
WEIGHT = "stages.rl.rewards[0].weight"


@pytest.fixture
def started(monkeypatch):
    """Runs are stubs that score their weight and print; the list holds (experiment, folder) of each."""
    runs = []

    def run_experiment(experiment, workdir):
        print("progress")
        runs.append((experiment, workdir))
        if experiment.stages["rl"]["rewards"][0]["weight"] == "3.0":
            raise ValueError("3 brings bad luck")
        score = float(experiment.stages["rl"]["rewards"][0]["weight"])
        (workdir / "rl").mkdir(parents=True)
        (workdir / "rl" / "metrics.jsonl").write_text(json.dumps({"step": 1, "eval/pass@1": score}) + "\n")
        summary = {"after": {"pass@1": score}, "stages": {"base": {}, "rl": {}}}
        (workdir / "summary.json").write_text(json.dumps(summary))

    monkeypatch.setattr(grid, "run_experiment", run_experiment)
    monkeypatch.setattr(grid, "check_stages", lambda experiment, folder: None)
    return runs


@pytest.fixture
def experiment(tmp_path):
    (tmp_path / "rl.py").write_text(CONFIG)
    return load_experiment(str(tmp_path / "rl.py"))


def test_every_combination_runs_once_and_is_read_again(experiment, started, tmp_path, capsys):
    settings = {WEIGHT: [1.0, 0.5], "stages.rl.group_size": [4]}
    sweep = run_grid(experiment, workdir=tmp_path / "out", settings=settings, seeds=[0, 1])
    wanted = [{"weight": w, "group_size": 4, "seed": s} for w in (1.0, 0.5) for s in (0, 1)]
    assert [run.settings for run in sweep.runs] == wanted
    assert [run.score for run in sweep.runs] == [1.0, 1.0, 0.5, 0.5] and {run.state for run in sweep.runs} == {"done"}
    assert [run.stage.metrics["eval/pass@1"].ends[1] for run in sweep.runs] == [1.0, 1.0, 0.5, 0.5]
    assert sweep.table.splitlines()[0].split() == ["trial", "weight", "seed", "eval/pass@1", "state", "min"]
    bases = {experiment.stages["base"]["workdir"] for experiment, _ in started}
    assert bases == {"{workdir}/../base-{hash}"}  # one for all
    assert experiment.stages["rl"]["rewards"] == [{"function": "a:b"}]  # the caller's is left alone
    printed = capsys.readouterr().out
    assert "progress" not in printed and printed.count("eval/pass@1") == 4
    assert (sweep.runs[0].path / "log.txt").read_text() == "progress\n"
    assert read_sweep(tmp_path / "out") == sweep

    more = run_grid(experiment, workdir=tmp_path / "out", settings=settings | {WEIGHT: [1.0, 0.5, 2.0]}, seeds=[0, 1])
    assert len(started) == 6 and [run.score for run in more.runs][4:] == [2.0, 2.0]


def test_a_run_that_fails_is_taken_up_by_the_same_call(experiment, started, tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError, match="bad luck"):
            run_grid(experiment, workdir=tmp_path / "out", settings={WEIGHT: [1.0, 3.0]})
    assert [folder.name[:3] for _, folder in started] == ["000", "001", "001"]
    assert [run.state for run in read_sweep(tmp_path / "out").runs] == ["done", "under way"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({WEIGHT: 1.0}, "weight' needs a list of values, not 1.0"),
        ({WEIGHT: "1.0"}, "needs a list of values"),
        ({WEIGHT: []}, "needs a list of values"),
        ({WEIGHT: [1.0, "much"]}, "rewards[0].weight='much'"),
        ({"stages.rl.rewards[1].weight": [1.0, 2.0]}, "the file has 1 reward(s) there"),
        ({"rl.group_size": [4, 8]}, "near it: stages.rl.group_size"),
        ({"stages.rl.group_size": [4, 4]}, "two trials would be the same run"),
    ],
)
def test_mistakes_are_said_before_anything_runs(experiment, started, tmp_path, settings, words):
    with pytest.raises(ConfigError) as error:
        run_grid(experiment, workdir=tmp_path / "out", settings=settings)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists() and not started


def test_a_folder_without_a_sweep_is_said(tmp_path):
    with pytest.raises(NotAWorkdirError, match="holds no sweep"):
        read_sweep(tmp_path)


def test_flags_change_a_copy(experiment):
    changed = with_flags(experiment, ["--config.seed=3", "--config.stages.rl.group_size=8"])
    assert changed.seed == 3 and changed.stages["rl"]["group_size"] == "8"
    assert experiment.seed == 0 and "group_size" not in experiment.stages["rl"]
