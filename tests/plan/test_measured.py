"""r1jax plan --local: real updates of a stage here, without what has still to be trained."""

import json
import re

import pytest

import r1jax.stages.rl
import r1jax.stages.supervised
from r1jax.plan import __main__ as command
from r1jax.plan.measured import Measured
from tests.sweep import tiny_config
from tests.tiny import POLICY


@pytest.fixture
def run(monkeypatch, capsys):
    monkeypatch.setattr(command, "use_compilation_cache", lambda: None)

    def run(*flags):
        code = command.main(["--local", f"--config={tiny_config.__file__}", *flags])
        return code, *capsys.readouterr()

    return run


def stub(module, monkeypatch, seconds):
    """A main that notes its spec and logs these seconds of its phases."""
    specs = []

    def main(spec, workdir):
        specs.append(spec)
        print("progress")
        workdir.mkdir()
        phase = getattr(spec, "updates_per_phase", 1)
        rows = [
            {"step": phase * number, "time/step": value, "completions/mean_length": 7.0}
            for number, value in enumerate(seconds, start=1)
        ]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    monkeypatch.setattr(module, "main", main)
    return specs


def test_an_rl_stage_starts_from_the_untrained_model_and_is_cut_to_three_phases(run, monkeypatch):
    specs = stub(r1jax.stages.rl, monkeypatch, [9.0, 1.0, 3.0])
    flags = (
        "updates_per_phase=2",
        "num_updates=400",
        "eval.every=2",
        "optimizer.warmup_steps=9",
        "init.model.remat=full",
    )
    code, out, err = run(*(f"--config.stages.rl.{flag}" for flag in flags))
    assert (code, err) == (0, "three updates on this machine ...\n")
    lines = out.splitlines()
    assert lines[0].endswith(", stage rl, on this machine")
    assert re.fullmatch(r"memory \d+\.\d of \d+\.\d GiB at the peak", lines[1])
    assert lines[2:] == [
        "first phase: 7 s more than the next ones, for compilation",
        "an update: 1 s",
        "the whole stage: 400 updates, about 6.78 min, without evaluations",
        "lengths change in the course of RL, and times with them; these were 7 tokens a response, of an untrained policy, "
        "which seldom ends by itself",
    ]
    (spec,) = specs
    assert spec.init.kind == "random" and spec.init.model == POLICY["model"] | {"remat": "full"}
    assert (spec.num_updates, spec.eval.every, spec.eval.final_problems, spec.optimizer.warmup_steps) == (6, 6, 1, 0)


def test_a_supervised_stage_of_epochs_has_no_whole_time(run, monkeypatch):
    specs = stub(r1jax.stages.supervised, monkeypatch, [5.0, 2.0, 2.0])
    code, out, _ = run("--stage=base", "--config.stages.base.num_updates=None", "--config.stages.base.num_epochs=2")
    assert code == 0 and "first update: 3 s more" in out and "an update: 2 s" in out and "whole" not in out
    assert (specs[0].num_updates, specs[0].num_epochs, specs[0].log_every) == (3, None, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "num_lines"), [("base", 5), ("rl", 6)])
def test_real_updates_leave_nothing_behind(run, stage, num_lines, monkeypatch, tmp_path, quick_compilation):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(f"--stage={stage}")
    assert code == 0 and len(out.splitlines()) == num_lines and "the whole stage: 2 updates" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ("--stage=nothing",),
            "--stage=nothing: --local times the updates of supervised and RL stages; there are base, rl",
        ),
        (("--config.stages.rl.group_size=1",), "group_size=1"),
        (("--topology=v5e:2x2",), "not allowed with argument --local"),
        (("--config.stages.rl.init.path=gone",), "gone"),
    ],
)
def test_bad_input_is_one_line(run, capsys, flags, words):
    try:
        code, out, err = run(*flags)
    except SystemExit as error:
        code, out, err = error.code, "", capsys.readouterr().err
    assert code == 2 and words in err and not out


def test_a_stage_that_fits_not_is_refused_before_it_runs(run, monkeypatch):
    monkeypatch.setattr("r1jax.plan.room.free_bytes", lambda devices: 1000)
    code, _, err = run()
    assert code == 2 and "needs 0.0 GiB (parameters" in err and "are free here" in err


def test_what_follows_from_data_is_not_guessed():
    measured = Measured(
        5.0,
        2.0,
        memory="memory 1.0 of 2.0 GiB",
        num_updates=None,
        updates_per_phase=1,
        mean_length=None,
        is_untrained=False,
    )
    assert [line.partition(":")[0] for line in measured.lines()] == [
        "memory 1.0 of 2.0 GiB at the peak",
        "first update",
        "an update",
    ]
    assert "3 s more" in json.dumps(measured.lines())
