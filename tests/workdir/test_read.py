import json

import numpy as np
import pytest

from r1jax.report.page import write_report
from r1jax.workdir.read import Evaluation, NotAWorkdirError, flatten, read_run
from tests.report.synthetic import make_pretrain_stage, make_rl_stage, make_workdir, write_lines


def test_stages_in_order_of_their_start(tmp_path):
    run = read_run(make_workdir(tmp_path / "zero", updates=20))
    assert [(stage.name, stage.kind, stage.last_step, stage.is_rl) for stage in run.stages] == [
        ("pretrain", "supervised", 50, False),
        ("rl", "rl", 20, True),
    ]
    assert run.stages[0].wall_seconds == 10.0  # last "time"
    assert run.stages[1].wall_seconds == 372.0  # summary.json


def test_single_stage_is_a_work_directory_too(tmp_path):
    assert [stage.name for stage in read_run(make_rl_stage(tmp_path / "rl", updates=3)).stages] == ["rl"]


@pytest.mark.parametrize("path", ["{tmp_path}/base-1234", "{{here}}/../../base-1234"])
def test_base_elsewhere_comes_along(tmp_path, path):
    make_pretrain_stage(tmp_path / "base-1234")
    stage = make_rl_stage(tmp_path / "zero" / "rl", updates=3)
    config = json.loads((stage / "config.json").read_text()) | {
        "init": {"kind": "stage", "path": path.format(tmp_path=tmp_path)}
    }
    (stage / "config.json").write_text(json.dumps(config))
    assert [stage.name for stage in read_run(tmp_path / "zero").stages] == ["base-1234", "rl"]
    assert [stage.name for stage in read_run(stage).stages] == ["base-1234", "rl"]


@pytest.mark.parametrize("name", ["missing", "empty", "file"])
def test_what_is_no_work_directory_is_named(tmp_path, name):
    (tmp_path / "empty" / "notes").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotAWorkdirError, match=name):
        read_run(tmp_path / name)


def test_a_folder_of_models_is_no_work_directory(tmp_path):
    """A model's config.json is no stage's; nor is it one where it lies in a run."""
    run = make_workdir(tmp_path / "run", updates=3)
    for folder in (tmp_path / "model", tmp_path / "models" / "a", run / "exported"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}')
    for name in ("model", "models"):
        with pytest.raises(NotAWorkdirError, match=f"{name} is no work directory: .* the config.json of a stage"):
            read_run(tmp_path / name)
    assert [stage.name for stage in read_run(run).stages] == ["pretrain", "rl"]


def test_a_pipeline_of_which_nothing_has_run_is_said(tmp_path):
    for name in ("base", "zero"):
        (tmp_path / name).mkdir()
        for file in ("config.json", "environment.json", "LOCK"):
            (tmp_path / name / file).write_text('{"stage": "rl"}')
    with pytest.raises(NotAWorkdirError, match="nothing has run yet of its stages base, zero"):
        read_run(tmp_path)
    write_lines(tmp_path / "base" / "metrics.jsonl", [{"step": 1, "loss": 2.0}])
    assert [stage.has_run for stage in read_run(tmp_path).stages] == [True, False]


def read_metrics(tmp_path, text):
    (tmp_path / "metrics.jsonl").write_bytes(text)
    return read_run(tmp_path).stages[0]


def test_row_cut_off_at_the_end_is_left_out_without_a_note(tmp_path):
    stage = read_metrics(tmp_path, b'{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert stage.metrics["loss"].values.tolist() == [2.0]
    assert stage.notes == ()


def test_of_a_finished_stage_a_row_that_is_cut_off_is_damage(tmp_path):
    (tmp_path / "DONE").touch()
    stage = read_metrics(tmp_path, b'{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert stage.notes == ("metrics.jsonl: 1 unreadable line left out (first: line 2).",)


def test_broken_rows_are_counted(tmp_path):
    rows = b'{"step": 1, "loss": 2.0}\nnot json\n[1]\n\xff\xfe\n\n{"step": 2, "loss": 1.0}\n'
    stage = read_metrics(tmp_path, rows)
    assert stage.metrics["loss"].values.tolist() == [2.0, 1.0]
    assert stage.notes == ("metrics.jsonl: 3 unreadable lines left out (first: line 2).",)
    assert set(stage.damaged) == {"metrics.jsonl"}


def test_values_that_cannot_be_drawn_are_counted(tmp_path):
    big = b"1" + 400 * b"0"
    rows = (
        b'{"step": 1, "loss": null, "kl": NaN}\n{"step": 2, "loss": 3, "kl": ' + big + b', "ok": true, "name": "x"}\n'
    )
    stage = read_metrics(tmp_path, rows)
    assert list(stage.metrics) == ["loss"]
    assert stage.notes == (
        "kl: 2 non-finite or too large, left out (first at update 1).",
        "loss: 1 non-finite or too large, left out (first at update 1).",
    )


def test_failed_rewards_are_said(tmp_path):
    names = ("rewards/a/errors", "rewards/b/errors", "rewards/a/timeouts", "eval/rewards/b/errors")
    write_lines(tmp_path / "metrics.jsonl", [dict(zip(names, (2 * s, 0, s, 1), strict=True), step=s) for s in range(3)])
    stage = read_run(tmp_path).stages[0]
    assert stage.notes == (
        "Warning: eval/rewards/b/errors: the verifier failed on 3 completions, first at update 0; "
        "they count as neither right nor wrong.",
        "Warning: rewards/a/errors: the verifier failed on 6 completions, first at update 1; "
        "they count as neither right nor wrong.",
    )
    assert set(stage.metrics) == set(names) - {"rewards/b/errors"}  # without failures no plot
    text = write_report(tmp_path).read_text()
    assert "Warning: rewards/a/errors" in text and "Failed verifiers" in text


def test_rows_of_one_step_are_joined_and_the_last_wins(tmp_path):
    rows = [{"step": 2, "a": 1.0}, {"step": 1, "a": 5.0}, {"step": 2, "b": 3.0}, {"step": 2, "a": 9.0}, {"a": 7.0}]
    write_lines(tmp_path / "metrics.jsonl", rows)
    metrics = read_run(tmp_path).stages[0].metrics
    np.testing.assert_array_equal(metrics["a"].steps, [1, 2])
    np.testing.assert_array_equal(metrics["a"].values, [5, 9])
    np.testing.assert_array_equal(metrics["b"].steps, [2])


def test_evaluations_of_different_sizes_are_told_apart(tmp_path):
    """Both of one step: the full one, which says more, stays."""
    full = {"eval/pass@1": 0.75, "eval/cons@16": 0.9, "eval/pass@16": 0.95}
    short = {"eval/pass@1": 0.5, "eval/cons@4": 0.6, "eval/pass@4": 0.8, "time/eval": 2.0}
    rows = [full | {"step": 0}, short | {"step": 10}, full | {"step": 20}, short | {"step": 20}, short | {"step": 30}]
    write_lines(tmp_path / "metrics.jsonl", rows)
    metrics = read_run(tmp_path).stages[0].metrics
    series = metrics["eval/pass@1"]
    assert series.values.tolist() == [0.75, 0.5, 0.75, 0.5] and series.ends == (0.75, 0.5)
    kinds = {kind: part.steps.tolist() for kind, part in series.by_kind().items()}
    assert kinds == {Evaluation(False, 4): [10, 30], Evaluation(True, 16): [0, 20]}
    assert str(Evaluation(True, 16)) == "first and last, 16 samples"
    assert metrics["time/eval"].by_kind() == {None: metrics["time/eval"]}


def test_time_of_no_named_part_is_other(tmp_path):
    rows = [
        {"step": 1, "time/step": 3.0, "time/generate": 1.0, "time/update": 0.5, "time/eval": 9.0},  # beside the step
        {"step": 2, "time/step": 1.0},
    ]
    write_lines(tmp_path / "metrics.jsonl", rows)
    assert read_run(tmp_path).stages[0].metrics["time/other"].values.tolist() == [1.5, 1.0]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a":' * 100_000])
def test_damaged_json_files_become_notes(tmp_path, content):
    for name in ("config.json", "environment.json", "summary.json"):
        (tmp_path / name).write_text(content)
    (tmp_path / "DONE").touch()
    stage = read_run(tmp_path).stages[0]
    assert (stage.config, stage.environment, stage.summary) == ({}, {}, {})
    assert len(stage.notes) == 3


def test_completion_files_are_in_order_of_the_update(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for name in ("update_000002", "update_1000000", "update_000010", "update_x", "heldout_000001"):
        write_lines(tmp_path / "completions" / f"{name}.jsonl", [])
    files = read_run(tmp_path).stages[0].completion_files("train")
    assert [path.stem for path in files] == ["update_000002", "update_000010", "update_1000000"]


def test_flatten_names_every_leaf():
    tree = {"a": {"b": 1, "c": [1, 2]}, "d": [{"e": 3}], "f": {}}
    assert list(flatten(tree)) == [("a.b", 1), ("a.c", [1, 2]), ("d[0].e", 3), ("f", {})]
