"""The front door, with stages that cost nothing."""

import json
import sys
import types
from pathlib import Path

import pytest

import r1jax.stages
from r1jax import run
from r1jax.training.learner import NonFiniteError

CONFIG = """
from ml_collections import ConfigDict

def get_config(argument="3"):
    config = ConfigDict({"seed": 1}, sort_keys=False)
    config.stages = ConfigDict(sort_keys=False)
    config.stages.zero = ConfigDict({
        "stage": "count", "seed": config.get_ref("seed"), "num_updates": int(argument), "learning_rate": 1e-3,
        "rewards": [{"function": "a:b", "weight": 1.0}], "lengths": (8, 16), "cap": None, "max_tokens": [[0, 8]]})
    config.stages.after = ConfigDict({"stage": "count", "start": "{zero}/checkpoints", "num_updates": 1, "name": "{x}"})
    return config
"""


@pytest.fixture(autouse=True)
def quiet_cache(monkeypatch):
    """The compilation cache of the test process stays as conftest set it."""
    monkeypatch.setattr(run, "use_compilation_cache", lambda: None)


@pytest.fixture
def stage(monkeypatch):
    """A stage named "count" which notes what it was called with and can be told to fail or to stop."""
    module = types.ModuleType("r1jax.stages.count")
    module.calls, module.error, module.stop = [], None, False

    def check(config):
        if config.num_updates < 1:
            raise ValueError(f"num_updates must be at least 1, got {config.num_updates}")

    def main(config, workdir):
        module.calls.append((workdir, config.to_dict()))
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "config.json").write_text(config.to_json())
        if module.error:
            raise module.error
        summary = {"updates": config.num_updates, "wall_seconds": 30.0, "before": {"pass@1": 0.156, "cons@16": 0.25}}
        summary["after"] = {"pass@1": 0.779, "cons@16": 0.867}
        (workdir / "summary.json").write_text(json.dumps(summary))
        if not module.stop:
            (workdir / "DONE").touch()
        return summary

    module.check, module.main = check, main
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


def test_runs_the_stages_in_the_order_of_the_config(door, stage, tmp_path):
    code, out, _ = door()
    assert code == 0
    (first, zero), (second, after) = stage.calls
    assert (first, second) == (tmp_path / "w" / "zero", tmp_path / "w" / "after")
    assert zero["learning_rate"] == 1e-3 and zero["seed"] == 1
    assert after["start"] == str(tmp_path / "w" / "zero" / "checkpoints")
    assert after["name"] == "{x}"  # not the name of a stage: left as it is
    summary = json.loads((tmp_path / "w" / "summary.json").read_text())
    assert (summary["seed"], summary["wall_seconds"], summary["updates"]) == (1, 60.0, 1)
    assert list(summary["stages"]) == ["zero", "after"]
    assert "held-out pass@1 0.156 -> 0.779, cons@16 0.25 -> 0.867, 1 updates, 1 min 0 s, seed 1" in out
    assert (tmp_path / "w" / "report.html").exists()


def test_flags_change_the_config(door, stage):
    flags = ["--config.stages.zero.learning_rate=3", "--config.stages.zero.rewards[0].weight=0.5"]
    flags += ["--config.stages.zero.cap=0.5", "--config.stages.zero.max_tokens=[[0, 4], [9, 8]]"]
    assert door("--seed=7", *flags, "--config.stages.zero.lengths=(4,)", argument=":5")[0] == 0
    zero = stage.calls[0][1]
    assert (zero["cap"], zero["max_tokens"]) == (0.5, [[0, 4], [9, 8]])
    assert (zero["seed"], zero["num_updates"], zero["learning_rate"], zero["lengths"]) == (7, 5, 3.0, (4,))
    assert zero["rewards"] == [{"function": "a:b", "weight": 0.5}]


def test_a_second_start_skips_what_is_done(door, stage, tmp_path):
    door()
    code, out, _ = door()
    assert code == 0 and len(stage.calls) == 2
    assert "zero: done before" in out
    (tmp_path / "w" / "after" / "DONE").unlink()
    assert door()[0] == 0
    assert [calls[0].name for calls in stage.calls] == ["zero", "after", "after"]


def test_a_work_directory_of_another_config_is_refused_before_anything_runs(door, stage, tmp_path):
    door()
    (tmp_path / "w" / "zero" / "DONE").unlink()  # zero would have to run again, only then after
    code, _, err = door("--config.stages.after.num_updates=2")
    assert code == 2 and len(stage.calls) == 2
    assert f"{tmp_path}/w/after holds a run of another config" in err and "num_updates: 1 there, 2 now" in err


def test_a_stage_can_live_outside_and_be_shared(door, stage, tmp_path):
    flag = "--config.stages.zero.workdir={workdir}/../base-{hash}"
    config = CONFIG.replace('"stage": "count", "seed"', '"workdir": "", "stage": "count", "seed"')
    (tmp_path / "zero.py").write_text(config)
    assert door(flag)[0] == 0
    where, zero = stage.calls[0]
    assert where.parent == tmp_path and where.name.startswith("base-") and "workdir" not in zero
    assert stage.calls[1][1]["start"] == f"{where}/checkpoints"
    run.main([f"--config={tmp_path / 'zero.py'}", f"--workdir={tmp_path / 'v'}", flag])
    assert len(stage.calls) == 3  # the base of the first run is used by the second
    run.main([f"--config={tmp_path / 'zero.py'}", f"--workdir={tmp_path / 'u'}", flag, "--seed=2"])
    assert len(stage.calls) == 5 and stage.calls[3][0] != where  # another config, another directory


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.stages.zero.learning_rte=1", "no key stages.zero.learning_rte; near it: stages.zero.learning_rate"),
        ("--config.zero.num_updates=1", "near it: stages.zero.num_updates"),
        ("--config.stages.zero.rewards[3].weight=1", "no key stages.zero.rewards[3].weight"),
        ("--config.stages.zero.num_updates=many", "num_updates=many"),
        ("--config.stages.zero.max_tokens=8", "must be a list"),
        ("--config.stages.zero.num_updates=0", "num_updates must be at least 1, got 0"),
        ("--config.stages.zero.stage=countt", "is none of the stages"),
        ("--learning_rate=1", "unknown flag --learning_rate"),
        ("7", "'7' is not a flag"),
    ],
)
def test_bad_flags_are_said_in_one_line_before_anything_runs(door, stage, flag, words):
    code, out, err = door(flag)
    assert code == 2 and words in err and "Traceback" not in out + err
    assert err.startswith("error: ") and len(err.splitlines()) == 2
    assert stage.calls == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "defines no get_config"),
        ("def get_config(): return {}", "returned dict, not a ConfigDict"),
        ("from ml_collections import ConfigDict\nget_config = ConfigDict", "has no stages"),
        (CONFIG.replace("sort_keys=False)\n    config.stages.zero", ")\n    config.stages.zero"), "alphabetical order"),
        (CONFIG.replace("stages.after", "stages.workdir"), "is taken by a placeholder"),
        (CONFIG.replace('"{x}"', "print"), "numbers, strings, lists and dicts only"),
    ],
)
def test_bad_config_files_are_said_in_one_line(door, stage, tmp_path, source, words):
    (tmp_path / "zero.py").write_text(source)
    code, _, err = door()
    assert code == 2 and words in err and stage.calls == []


def test_a_missing_config_file_is_named(capsys, tmp_path):
    assert run.main([f"--config={tmp_path}/none.py", f"--workdir={tmp_path}"]) == 2
    assert f"there is no Python file {tmp_path}/none.py" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("group_size must be at least 2"), NonFiniteError("update 3")])
def test_an_error_of_a_stage_is_one_line_and_its_traceback_a_file(door, stage, tmp_path, error):
    stage.error = error
    code, _, err = door()
    assert code == 2 and str(error) in err and "Traceback" not in err
    assert "Traceback" in (tmp_path / "w" / "error.txt").read_text()
    assert not (tmp_path / "w" / "summary.json").exists()
    with pytest.raises(type(error)):
        door("--traceback")


def test_an_error_that_is_none_of_ours_keeps_its_traceback(door, stage):
    stage.error = RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        door()


def test_an_unwritable_work_directory_is_said(door, stage, tmp_path):
    (tmp_path / "w").write_text("a file")
    code, _, err = door()
    assert code == 2 and str(tmp_path / "w") in err


def test_a_stopped_run_says_how_it_goes_on(door, stage, tmp_path):
    stage.stop = True
    code, out, _ = door()
    assert code == 75 and "the same command goes on" in out
    assert len(stage.calls) == 1 and not (tmp_path / "w" / "summary.json").exists()
    stage.stop = False
    assert door()[0] == 0 and len(stage.calls) == 3


def test_every_config_of_the_repository_loads():
    for path in sorted(Path(__file__).parent.parent.glob("configs/*.py")):
        if path.stem != "__init__":
            assert run.load_config(str(path)).is_locked
