"""Which stages run, and whether what they read is there and of the same config."""

import json
import shutil

import pytest

from r1jax import run
from tests import front_door
from tests.front_door import CONFIG, SHARED

stage, door, quiet_cache = front_door.stage, front_door.door, front_door.quiet_cache


def calls_of(stage):
    return [where.name for where, _ in stage.calls]


def test_chosen_stages_run_alone_and_in_the_order_of_the_config(door, stage, tmp_path):
    code, out, _ = door("--stages=zero")
    assert code == 0 and calls_of(stage) == ["zero"] and not (tmp_path / "w" / "after").exists()
    summary = json.loads((tmp_path / "w" / "summary.json").read_text())
    assert list(summary["stages"]) == ["zero"] and summary["updates"] == 3 and "report: " in out
    assert door("--skip=zero")[0] == 0 and calls_of(stage) == ["zero", "after"]
    summary = json.loads((tmp_path / "w" / "summary.json").read_text())  # of all that is done, whenever that was
    assert list(summary["stages"]) == ["zero", "after"] and summary["wall_seconds"] == 60.0
    assert "after" in (tmp_path / "w" / "report.html").read_text()
    (tmp_path / "w" / "zero" / "DONE").unlink()
    (tmp_path / "w" / "after" / "DONE").unlink()
    assert door("--stages=after, zero")[0] == 0 and calls_of(stage)[2:] == ["zero", "after"]
    assert door("--stages=zero,after", "--skip=after")[0] == 0 and len(stage.calls) == 4


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--stages=zero,aftr", "--stages: there is no stage 'aftr'; there are zero, after"),
        ("--skip=before", "--skip: there is no stage 'before'; there are zero, after"),
        ("--skip=zero,after", "--stages and --skip leave none of the stages zero, after"),
        ("--stages=", "--stages and --skip leave none of the stages zero, after"),
        ("--stages=after", "stages.after.start: reads what the stage 'zero' makes, which is not done in "),
        ("--skip=zero", "run it before, with --stages=zero"),
    ],
)
def test_a_choice_that_cannot_run_is_said_before_anything_runs(door, stage, tmp_path, flag, words):
    code, _, err = door(flag)
    assert code == 2 and words in err and stage.calls == []
    assert not (tmp_path / "w").exists()


def test_an_interrupted_stage_is_no_input_of_another_and_goes_on_alone(door, stage, tmp_path):
    stage.stop_at = 1
    assert door()[0] == 75
    code, _, err = door("--stages=after")
    assert code == 2 and f"which is not done in {tmp_path}/w/zero" in err
    assert door("--stages=zero")[0] == 0 and calls_of(stage) == ["zero", "zero"]


def test_an_input_of_another_config_is_refused_naming_both_stages(door, stage, tmp_path):
    door("--stages=zero")
    code, _, err = door("--stages=after", "--config.stages.zero.learning_rate=0.5")
    assert code == 2 and calls_of(stage) == ["zero"] and not (tmp_path / "w" / "after").exists()
    assert f"stages.after.start: reads what the stage 'zero' makes, but {tmp_path}/w/zero holds a run of another" in err
    assert "learning_rate: 0.001 there, 0.5 now" in err
    assert door("--stages=after")[0] == 0
    # what is done with its own config is kept, whatever has become of its inputs
    assert door("--stages=after", "--config.stages.zero.learning_rate=0.5")[0] == 0 and len(stage.calls) == 2


THIRD = """
    config.stages.last = ConfigDict({"stage": "count", "num_updates": 1, "sets": [{"path": "{after}"}]})
    return config
"""


def test_an_input_s_own_input_may_be_gone_but_not_of_another_config(door, stage, tmp_path):
    (tmp_path / "zero.py").write_text(CONFIG.replace("\n    return config\n", THIRD))
    door("--skip=last")
    code, _, err = door("--stages=last", "--config.stages.zero.learning_rate=0.5")
    assert code == 2 and "stages.after.start: reads what the stage 'zero' makes, but " in err
    shutil.rmtree(tmp_path / "w" / "zero")
    assert door("--stages=last")[0] == 0 and calls_of(stage) == ["zero", "after", "last"]
    assert list(json.loads((tmp_path / "w" / "summary.json").read_text())["stages"]) == ["after", "last"]


def test_a_check_of_a_stage_that_is_left_out_does_not_stop_the_others(door, stage):
    assert door("--stages=zero", "--config.stages.after.num_updates=0")[0] == 0


def test_a_shared_stage_can_be_made_alone(tmp_path, stage, capsys):
    (tmp_path / "zero.py").write_text(SHARED)
    assert run.main([f"--config={tmp_path / 'zero.py'}", f"--workdir={tmp_path / 'w'}", "--stages=zero"]) == 0
    (base,) = tmp_path.glob("base-*")
    assert f"report: {base}/report.html" in capsys.readouterr().out
    assert run.main([f"--config={tmp_path / 'zero.py'}", f"--workdir={tmp_path / 'w'}", "--stages=after"]) == 0
    assert calls_of(stage) == [base.name, "after"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"kind": "stage", "path": "{workdir}/../other/rl"}, "other/rl is not the work directory of a finished stage"),
        (
            {"kind": "reward_model", "path": "{workdir}/../safe", "name": "s"},
            "safe is not the work directory of a finished stage",
        ),
        ({"kind": "hf", "path": "{workdir}/../model"}, "there is no folder"),
    ],
)
def test_a_model_from_elsewhere_must_be_there_before_anything_runs(door, stage, tmp_path, spec, words):
    (tmp_path / "zero.py").write_text(CONFIG.replace('"name": "{x}"', f'"models": [{spec}]'))
    code, _, err = door()
    assert code == 2 and stage.calls == [] and "stages.after.models[0].path: " in err and words in err
    made = tmp_path / spec["path"].partition("../")[2]
    made.mkdir(parents=True)
    (made / "DONE").touch()
    if spec["kind"] == "hf":  # a folder of files that are there, but no model
        code, _, err = door()
        assert code == 2 and f"stages.after.models[0].path: {made}" in err
    else:
        assert door()[0] == 0


def test_a_stage_after_one_that_is_made_longer_goes_on_only_if_it_holds_nothing_yet(door, stage, tmp_path):
    stage.stop_at = 2
    assert door()[0] == 75 and calls_of(stage) == ["zero", "after"]
    (tmp_path / "w" / "after" / "checkpoints" / "1").mkdir(parents=True)
    code, _, err = door("--config.stages.zero.num_updates=5")
    assert code == 2 and len(stage.calls) == 2  # said before anything is computed
    assert f"{tmp_path}/w/after was begun from what 'zero' was before" in err and "num_updates=3 there, 5 now" in err
    (tmp_path / "w" / "after" / "checkpoints" / "1").rmdir()
    assert door("--config.stages.zero.num_updates=5")[0] == 0 and calls_of(stage)[2:] == ["zero", "after"]


def test_a_moved_run_goes_on_with_the_copies_of_its_inputs_that_moved_with_it(stage, tmp_path, capsys):
    """And with the inputs outside of it, which stayed."""
    (tmp_path / "outside.jsonl").write_text("{}")

    def start(root):
        sets = [{"path": f"{root}/data.jsonl"}, {"path": f"{tmp_path}/outside.jsonl"}]
        spec = f'"name": "{{x}}", "sets": {sets}, "models": [{{"kind": "stage", "path": "{root}/model"}}]'
        (tmp_path / "zero.py").write_text(CONFIG.replace('"name": "{x}"', spec))
        code = run.main([f"--config={tmp_path / 'zero.py'}", f"--workdir={root}", "--stages=zero,after"])
        return code, capsys.readouterr().err

    old, new = tmp_path / "w", tmp_path / "far" / "away" / "w"
    (old / "model").mkdir(parents=True)
    for name in ("model/DONE", "model/config.json", "data.jsonl"):
        (old / name).write_text("{}")
    assert start(old) == (0, "")
    config = json.loads((old / "after" / "config.json").read_text())
    assert config["models"][0]["path"] == "{here}/../model" and config["sets"][0]["path"] == "{here}/../data.jsonl"
    assert config["sets"][1]["path"] == f"{tmp_path}/outside.jsonl"
    (old / "after" / "DONE").unlink()  # it has to go on
    new.parent.mkdir(parents=True)
    shutil.move(old, new)
    assert start(new) == (0, "") and calls_of(stage) == ["zero", "after", "after"]
    (new / "after" / "DONE").unlink()
    (new / "data.jsonl").write_text("{ }")
    code, err = start(new)
    assert code == 2 and f"its input sets[0].path={new}/data.jsonl was made anew since this run was begun" in err
