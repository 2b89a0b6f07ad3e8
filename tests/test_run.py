"""The front door, with stages that cost nothing."""

import json
import os
import shutil

import pytest

from r1jax import run
from r1jax.training.learner import NonFiniteError
from r1jax.workdir.directory import open_workdir
from tests import front_door
from tests.front_door import CONFIG, SHARED

stage, door, quiet_cache = front_door.stage, front_door.door, front_door.quiet_cache


def test_runs_the_stages_in_the_order_of_the_config(door, stage, tmp_path):
    code, out, _ = door()
    assert code == 0
    (first, zero), (second, after) = stage.calls
    assert (first, second) == (tmp_path / "w" / "zero", tmp_path / "w" / "after")
    assert zero.learning_rate == 1e-3 and zero.seed == 1
    assert after.start == str(tmp_path / "w" / "zero" / "checkpoints")
    assert after.name == "{x}"  # not the name of a stage: left as it is
    summary = json.loads((tmp_path / "w" / "summary.json").read_text())
    assert (summary["seed"], summary["wall_seconds"], summary["updates"]) == (1, 60.0, 1)
    assert list(summary["stages"]) == ["zero", "after"]
    assert "held-out pass@1 0.156 -> 0.779, cons@16 0.25 -> 0.867, 1 updates, 1 min 0 s, seed 1" in out
    assert (tmp_path / "w" / "report.html").exists()


def test_flags_change_the_config(door, stage):
    flags = ["--config.stages.zero.learning_rate=3", "--config.stages.zero.rewards[0].weight=0.5"]
    flags += ["--config.stages.zero.cap=0.5", "--config.stages.zero.caps=[[0, 4], [9, 8]]"]
    assert door("--seed=7", *flags, "--config.stages.zero.lengths=(4,)", argument=":5")[0] == 0
    zero = stage.calls[0][1]
    assert (zero.cap, zero.caps) == (0.5, ((0, 4), (9, 8)))
    assert (zero.seed, zero.num_updates, zero.learning_rate, zero.lengths) == (7, 5, 3.0, (4,))
    assert [(reward.function, reward.weight) for reward in zero.rewards] == [("a:b", 0.5)]


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
    code, _, err = door("--config.stages.after.learning_rate=2")
    assert code == 2 and len(stage.calls) == 2
    assert f"{tmp_path}/w/after holds a run of another config" in err and "learning_rate: 0.1 there, 2.0 now" in err


def test_a_run_goes_on_with_other_settings_of_how_it_runs_and_with_more_updates(door, stage, tmp_path):
    door()
    code, out, _ = door("--config.stages.zero.log_every=5")
    assert code == 0 and len(stage.calls) == 2 and "zero: done before" in out
    code, out, _ = door("--config.stages.zero.num_updates=4")
    assert code == 0 and [where.name for where, _ in stage.calls] == ["zero", "after", "zero"]
    assert "zero goes on with other settings: num_updates 3 -> 4" in out
    code, _, err = door("--config.stages.zero.num_updates=2")
    assert code == 2 and f"{tmp_path}/w/zero: num_updates=2 is fewer than the 4 that are done" in err


def test_a_stage_can_live_outside_and_be_shared(door, stage, tmp_path):
    flag = "--config.stages.zero.workdir={workdir}/../base-{hash}"
    assert door(flag)[0] == 0
    where, zero = stage.calls[0]
    assert where.parent == tmp_path and where.name.startswith("base-") and zero.num_updates == 3
    assert stage.calls[1][1].start == f"{where}/checkpoints"
    run.main([f"--config={tmp_path / 'zero.py'}", f"--workdir={tmp_path / 'v'}", flag])
    assert len(stage.calls) == 3  # the base of the first run is used by the second
    run.main([f"--config={tmp_path / 'zero.py'}", f"--workdir={tmp_path / 'u'}", flag, "--seed=2"])
    assert len(stage.calls) == 5 and stage.calls[3][0] != where  # another config, another directory


def test_a_tilde_is_the_home_folder_in_work_directories(door, stage, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    flags = [f"--config={tmp_path / 'zero.py'}", "--workdir=~/runs", "--config.stages.after.workdir=~/after"]
    assert run.main(flags) == 0
    assert [where for where, _ in stage.calls] == [tmp_path / "home" / "runs" / "zero", tmp_path / "home" / "after"]
    assert run.main([flags[0], "--workdir=~no-such-user"]) == 0  # as a shell leaves it
    assert (tmp_path / "home" / "runs" / "summary.json").exists() and not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.stages.zero.learning_rte=1", "no key 'stages.zero.learning_rte'; near it: learning_rate"),
        ("--config.zero.num_updates=1", "no key 'zero.num_updates'; near it: stages.zero.num_updates"),
        ("--config.stages.zro.num_updates=1", "no stage 'zro'; near it: zero"),
        (
            "--config.stages.zero.rewards[3].weight=1",
            "--config.stages.zero.rewards[3].weight: the file has 1 reward(s) there; add",
        ),
        ("--config.stages.zero.num_updates=many", "stages.zero.num_updates='many' must be a whole number"),
        ("--config.stages.zero.num_updates", "write --config.stages.zero.num_updates=value"),
        ("--config.stages.zero.caps=8", "stages.zero.caps=8 must be a list"),
        ("--config.stages.zero.num_updates=0", "stages.zero.num_updates=0 must be at least 1"),
        ("--config.stages.zero.stage=countt", "stages.zero.stage='countt' must be one of supervised, rl, "),
        ("--seed=4294967296", "seed=4294967296 must be at least 0 and below 2**31"),
        ("--seed=one", "argument --seed: invalid int value: 'one'"),
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
        ("def get_config(): return {}", "get_config() returned a dict, not a ConfigDict"),
        ("from ml_collections import ConfigDict\nget_config = ConfigDict", "has no stages"),
        (CONFIG.replace("sort_keys=False)\n    config.stages.zero", ")\n    config.stages.zero"), "alphabetical order"),
        (CONFIG.replace("stages.after", "stages.workdir"), "is taken by a placeholder"),
        (CONFIG.replace('"{x}"', "print"), "stages.after.name=<built-in function print> must be a text"),
    ],
)
def test_bad_config_files_are_said_in_one_line(door, stage, tmp_path, source, words):
    (tmp_path / "zero.py").write_text(source)
    code, _, err = door()
    assert code == 2 and words in err and stage.calls == []


def test_a_missing_config_file_is_named(capsys, tmp_path):
    assert run.main([f"--config={tmp_path}/none.py", f"--workdir={tmp_path}"]) == 2
    assert f"--config={tmp_path}/none.py: there is no such Python file" in capsys.readouterr().err


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
    stage.stop_at = 1
    code, out, _ = door()
    assert code == 75 and "the same command goes on" in out
    assert len(stage.calls) == 1 and not (tmp_path / "w" / "summary.json").exists()
    assert door()[0] == 0 and len(stage.calls) == 3


def test_a_signal_in_the_last_update_of_a_stage_leaves_it_done_and_starts_no_other(door, stage, tmp_path):
    stage.signal_at = 1
    code, out, err = door()
    assert code == 75 and "the same command goes on" in out and "SIGTERM" in err
    assert len(stage.calls) == 1 and (tmp_path / "w" / "zero" / "DONE").exists()
    assert not (tmp_path / "w" / "summary.json").exists()
    code, out, _ = door()
    assert code == 0 and "zero: done before" in out
    assert [calls[0].name for calls in stage.calls] == ["zero", "after"]


def test_a_signal_in_the_last_update_of_the_last_stage_changes_nothing(door, stage, tmp_path):
    stage.signal_at = 2
    assert door()[0] == 0 and (tmp_path / "w" / "summary.json").exists()


def test_a_second_signal_quits_at_once(door, stage, tmp_path):
    stage.error = KeyboardInterrupt()
    code, out, _ = door()
    assert code == 75 and "stopped at once" in out and not (tmp_path / "w" / "zero" / "DONE").exists()


def test_a_second_run_in_a_directory_at_work_is_refused(door, stage, tmp_path):
    door()
    (tmp_path / "w" / "after" / "DONE").unlink()
    with open_workdir(tmp_path / "w" / "after", stage.calls[1][1]):
        code, _, err = door()
    assert code == 2 and f"{tmp_path}/w/after is in use by process {os.getpid()} on" in err
    assert len(stage.calls) == 2 and door()[0] == 0


def test_runs_that_are_moved_together_are_done_and_go_on(tmp_path, stage):
    (tmp_path / "zero.py").write_text(SHARED)

    def start(runs):
        return run.main([f"--config={tmp_path / 'zero.py'}", f"--workdir={runs}/w"])

    stage.stop_at = 2
    assert start(tmp_path / "old") == 75
    assert "{here}/../../base-" in (tmp_path / "old" / "w" / "after" / "config.json").read_text()
    shutil.move(tmp_path / "old", tmp_path / "new")
    stage.calls.clear()
    assert start(tmp_path / "new") == 0 and [where.name for where, _ in stage.calls] == ["after"]
    (base,) = (tmp_path / "new").glob("base-*")
    assert stage.calls[0][1].start == f"{base}/checkpoints"
    shutil.move(tmp_path / "new", tmp_path / "newer")
    stage.calls.clear()
    assert start(tmp_path / "newer") == 0 and stage.calls == []


def test_a_relative_work_directory_is_the_absolute_one(tmp_path, stage, monkeypatch):
    (tmp_path / "zero.py").write_text(SHARED)
    monkeypatch.chdir(tmp_path)
    for workdir in ("runs/w", tmp_path / "runs" / "w"):
        assert run.main([f"--config={tmp_path / 'zero.py'}", f"--workdir={workdir}"]) == 0
    assert len(stage.calls) == 2 and stage.calls[0][0].parent == tmp_path / "runs"


def test_edited_code_gets_a_new_base_and_is_said_of_what_is_done(tmp_path, stage, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "judge.py").write_text("# first\n")
    config = SHARED.replace('"a:b"', '"judge:score"').replace(
        '"num_updates": 1', '"num_updates": 1, "names": ["judge:g"]'
    )
    (tmp_path / "zero.py").write_text(config)
    flags = [f"--config={tmp_path / 'zero.py'}", f"--workdir={tmp_path / 'runs' / 'w'}"]
    assert run.main(flags) == 0
    (tmp_path / "judge.py").write_text("# second\n")
    assert run.main(flags) == 2 and len(stage.calls) == 2  # the stage after has begun from the base of the first code
    assert "{hash} also changes with the code that a config names" in capsys.readouterr().err
    flags[1] += "2"
    assert run.main(flags) == 0 and len(stage.calls) == 4
    assert stage.calls[0][0] != stage.calls[2][0]

    (tmp_path / "zero.py").write_text(config.replace("{workdir}/../base-{hash}", ""))  # no base apart
    flags[1] += "3"
    assert run.main(flags) == 0 and "was edited since" not in capsys.readouterr().out
    (tmp_path / "judge.py").write_text("# third\n")
    stage.calls.clear()
    assert run.main(flags) == 0 and stage.calls == []
    assert "w23/zero; judge was edited since\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("{zero}/checkpoints", "{zer}/checkpoints", "stages.after.start='{zer}/checkpoints': unknown placeholder"),
        ("{zero}/checkpoints", "{after}/checkpoints", "known are {workdir}, {zero}"),
        ('"start": "{zero}/checkpoints"', '"init": {"path": "{zer}"}', "stages.after.init.path='{zer}': unknown"),
        ('"start": "{zero}/checkpoints"', '"init": {"path": "{zero}x"}', "stages.after.init.path='{zero}x': unknown"),
        ('"start"', '"workdir": "{workdr}/a", "start"', "known are {hash}, {workdir}, {zero}"),
        ('"start"', '"workdir": "runs/{zero}", "start"', "stages.after.workdir='runs/{zero}': unknown placeholder"),
    ],
)
def test_unknown_placeholders_are_named(door, stage, tmp_path, old, new, words):
    (tmp_path / "zero.py").write_text(CONFIG.replace(old, new))
    code, _, err = door()
    assert code == 2 and words in err and stage.calls == []


def test_other_braces_stay(door, stage, tmp_path):
    texts = ["{x}", "{question} / {answer}", "{a}/{b}", "{x}/ and more", '{"json": 1}', "{", "{}/x"]
    (tmp_path / "zero.py").write_text(CONFIG.replace('"name": "{x}"', f'"names": {texts}'))
    assert door()[0] == 0 and stage.calls[1][1].names == tuple(texts)


def test_the_last_line_says_how_many_claims_held():
    summary = {"claims": 7, "held": 5, "wall_seconds": 61.0, "seed": 0}
    assert run.summary_line(summary) == "5 of 7 claims held, 1 min 1 s, seed 0"
