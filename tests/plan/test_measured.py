"""r1jax plan --local: real updates of a stage here, without what has still to be trained."""

import json
import re

import pytest

from r1jax.plan import __main__ as command
from r1jax.plan.measured import Measured
from tests.sweep import tiny_config


@pytest.fixture
def run(monkeypatch, capsys):
    monkeypatch.setattr(command, "use_compilation_cache", lambda: None)

    def run(*flags):
        code = command.main(["--local", f"--config={tiny_config.__file__}", *flags])
        return code, *capsys.readouterr()

    return run


def test_rl_is_timed_from_the_untrained_model_and_the_whole_stage_follows(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    flags = ("updates_per_phase=2", "num_updates=400", "eval.every=2", "optimizer.warmup_steps=9")
    code, out, err = run(*(f"--config.stages.rl.{flag}" for flag in flags))
    assert (code, err) == (0, "three updates on this machine ...\n")
    lines = out.splitlines()
    assert lines[0].endswith(", stage rl, on this machine") and len(lines) == 6
    assert re.fullmatch(r"memory \d+\.\d of \d+\.\d GiB at the peak", lines[1])
    seconds = float(re.fullmatch(r"an update: ([\d.e-]+) s", lines[3])[1])
    compiling = int(re.fullmatch(r"first phase: (\d+) s more than the next ones, for compilation", lines[2])[1])
    minutes = float(re.fullmatch(r"the whole stage: 400 updates, about ([\d.]+) min, without evaluations", lines[4])[1])
    assert minutes * 60 == pytest.approx(400 * seconds + compiling, rel=0.02, abs=1)
    assert re.search(r"these were [1-8] tokens a response, of an untrained policy", lines[5])
    assert not list(tmp_path.iterdir())  # all of it was in a temporary directory


def test_a_supervised_stage_is_timed_too(run):
    code, out, _ = run("--stage=base")
    assert code == 0 and "the whole stage: 2 updates" in out and "lengths" not in out and len(out.splitlines()) == 5


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
