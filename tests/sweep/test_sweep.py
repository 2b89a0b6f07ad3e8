"""Sweeps whose trials are a stub of `r1jax run`: which trials there are, what runs when, what is kept and what is said."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import optuna
import pytest

from r1jax.specs.config_file import ConfigError
from r1jax.sweep import __main__ as sweep
from r1jax.sweep import local
from r1jax.sweep.check import check_trials, prepare
from r1jax.sweep.trials import open_storage
from tests.sweep.sweep_program import STUB

ROOT = Path(__file__).resolve().parents[2]
RATE = "stages.rl.optimizer.learning_rate"
CONFIG = """
from ml_collections import ConfigDict

def get_config():
    rl = {"stage": "rl", "init": {"kind": "hf", "path": "m"}, "tasks": [{"kind": "files", "path": "p.jsonl"}],
          "rewards": [{"function": "a:b"}]}
    return ConfigDict({"seed": 0, "stages": ConfigDict({"rl": rl}, sort_keys=False)})
"""
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "rl.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sweep, "check_trials", lambda trials: None)
    return tmp_path


@pytest.fixture
def call(folder, capsys):
    """Runs a sweep in the folder "out"; returns exit code, standard output, standard error."""

    def call(*flags, run=STUB):
        code = sweep.main(["--config=rl.py", "--workdir=out", *flags], run=run)
        return code, *capsys.readouterr()

    return call


def study_of(folder):
    return optuna.load_study(study_name="sweep", storage=open_storage(f"sqlite:///{folder}/out/optuna.db"))


def diary(folder, what):
    file = folder / "out" / "diary"
    lines = file.read_text().splitlines() if file.exists() else []
    return [line.partition(" ")[2] for line in lines if line.startswith(f"{what} ")]


def test_a_grid_runs_every_combination_once(call, folder):
    code, out, _ = call("--set", f"{RATE}=1,1.5", "--seeds=0,1", "--jobs=2")
    assert code == 0
    names = [
        f"00{n}_learning_rate={rate}_seed={seed}" for n, (rate, seed) in enumerate([(1, 0), (1, 1), (1.5, 0), (1.5, 1)])
    ]
    assert sorted(diary(folder, "end")) == sorted(names)
    study = study_of(folder)
    assert [trial.params for trial in study.trials][:3:2] == [{RATE: 1.0, "seed": 0}, {RATE: 1.5, "seed": 0}]
    assert [trial.value for trial in study.trials] == [3.0, 3.0, 4.5, 4.5]  # the last row of eval/pass@1
    assert re.search(r"trial +learning_rate +seed +eval/pass@1 +state +min\n002 +1.5 +0 +4.5 +done ", out)
    assert "optuna-dashboard sqlite:///" in out and "load_study(study_name='sweep'" in out
    each = len(os.sched_getaffinity(0)) // 2
    assert sorted(diary(folder, f"cores={each}")) == [f"threads={each} {name}" for name in names]


def test_a_second_start_runs_what_is_new_only(call, folder):
    call("--set", f"{RATE}=1,2", "--metric=after.pass@1")
    code, _, _ = call("--set", f"{RATE}=1,2,4", "--metric=after.pass@1")
    assert code == 0 and [name[:3] for name in diary(folder, "start")] == ["000", "001", "002"]
    assert [trial.value for trial in study_of(folder).trials] == [1.0, 2.0, 4.0]
    code, _, err = call("--set", f"{RATE}=1,2")
    assert code == 2 and "holds a sweep with --metric=after.pass@1 --direction=maximize; choose" in err


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_twice_it_ends_with_all_trials_and_none_was_run_twice(folder):
    command = [sys.executable, "-m", "tests.sweep.sweep_program", f"--config={folder}/rl.py", f"--workdir={folder}/out"]
    command += ["--set", f"{RATE}=1,2,3,4", "--seeds=0,1,2", "--jobs=2"]
    for ended in (3, 7, 12):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_for(lambda ended=ended: len(diary(folder, "end")) >= ended, process)
        if ended < 12:
            process.send_signal(signal.SIGKILL)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    study = study_of(folder)
    assert Counter(trial.state.name for trial in study.trials) == {"COMPLETE": 12}
    assert [trial.value for trial in study.trials] == [3.0] * 3 + [6.0] * 3 + [9.0] * 3 + [12.0] * 3
    assert set(Counter(diary(folder, "end")).values()) == {1} and len(diary(folder, "end")) == 12
    assert 12 <= len(diary(folder, "start")) <= 16  # two at a time were killed, twice
    assert all(len(file.read_text().splitlines()) == 3 for file in folder.glob("out/*/rl/metrics.jsonl"))


HOLDER = """
import fcntl, pathlib, sys, time
trial, diary = map(pathlib.Path, sys.argv[1:])
with (trial / "log.txt").open("a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print(flush=True)
    while not diary.exists() or "end" not in diary.read_text():
        time.sleep(0.01)
"""


def test_what_a_killed_sweep_left_at_work_is_waited_for(folder, call):
    """A process that holds the lock of the first trial's log, until the second trial has ended."""
    trial = folder / "out" / "000_learning_rate=1"
    trial.mkdir(parents=True)
    held = [sys.executable, "-c", HOLDER, str(trial), str(folder / "out" / "diary")]
    with subprocess.Popen(held, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        code, out, _ = call("--set", f"{RATE}=1,2", "--jobs=2")
    assert code == 0 and "waiting for what a killed sweep has left at work" in out
    assert diary(folder, "end") == ["001_learning_rate=2", "000_learning_rate=1"]


def test_a_signal_stops_the_trials_and_the_same_command_goes_on(folder, call, monkeypatch):
    ready = local.LocalSweep._start

    def start(self, *arguments):
        ready(self, *arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(local.LocalSweep, "_start", start)
    code, out, _ = call("--set", f"{RATE}=1,2")
    assert code == 75 and "000_learning_rate=1: stopped, can go on" in out and "the same command goes on" in out
    assert [trial.state.name for trial in study_of(folder).trials] == ["RUNNING", "WAITING"]
    monkeypatch.setattr(local.LocalSweep, "_start", ready)
    assert call("--set", f"{RATE}=1,2")[0] == 0
    assert diary(folder, "end") == ["000_learning_rate=1", "001_learning_rate=2"]


def test_hours_end_the_sweep(folder, call):
    code, _, _ = call("--set", f"{RATE}=1,2,3", "--hours=0.00001")
    assert code == 75 and len(diary(folder, "end")) < 3
    assert call("--set", f"{RATE}=1,2,3")[0] == 0 and len(study_of(folder).trials) == 3


def test_a_trial_that_fails_is_said_and_run_again_when_asked(folder, call):
    code, out, err = call("--set", f"{RATE}=13,2")
    assert code == 1 and "000_learning_rate=13: failed with exit code 1: error: 13 brings bad luck" in out
    assert "1 failed: --retry" in err and study_of(folder).trials[0].user_attrs["error"].endswith("bad luck")
    (folder / "out" / "mended").touch()
    assert call("--set", f"{RATE}=13,2")[0] == 1 and len(diary(folder, "start")) == 2
    code, out, _ = call("--set", f"{RATE}=13,2", "--retry")
    assert code == 0 and diary(folder, "start")[2:] == ["000_learning_rate=13"] and "failed" not in out
    assert call("--set", f"{RATE}=13,2", "--retry")[0] == 0 and len(study_of(folder).trials) == 3


def test_a_trial_that_is_killed_goes_on(folder, call):
    code, out, _ = call("--set", f"{RATE}=9,2")
    assert code == 0 and "000_learning_rate=9: ended with exit code -9" in out
    assert [name[:3] for name in diary(folder, "start")] == ["000", "000", "001"]
    assert [trial.value for trial in study_of(folder).trials] == [27.0, 6.0]


def test_a_missing_metric_names_those_that_there_are(folder, call):
    code, _, err = call("--set", f"{RATE}=1,2", "--metric=eval/pass@2")
    assert code == 2 and "--metric=eval/pass@2: " in err and "there are eval/pass@1, time/eval" in err
    assert call("--set", f"{RATE}=1,2")[0] == 0
    assert diary(folder, "start") == ["000_learning_rate=1", "001_learning_rate=2"]


SPACE = """
def trial(trial):
    rate = trial.suggest_categorical("rate", [1.0, 2.0])
    settings = {"stages.rl.optimizer.learning_rate": rate, "seed": trial.suggest_int("seed", 0, 5, step=5)}
    if rate == 2.0:
        settings["stages.rl.group_size"] = trial.suggest_int("group_size", 4, 8, step=2)
        settings["stages.rl.mesh"] = {"data": 1}
    return settings
"""


def test_a_grid_of_a_file_has_the_values_that_depend_on_others(folder, call):
    (folder / "space.py").write_text(SPACE)
    code, out, _ = call("--space=space.py", "--sampler=grid", "--dry-run")
    lines = [re.findall(r"--config\.\S+", line) for line in out.splitlines()]
    assert code == 0 and len(lines) == 2 + 2 * 3 and not (folder / "out").exists()
    assert lines[0] == ["--config.stages.rl.optimizer.learning_rate=1.0", "--config.seed=0"]
    assert lines[-1][1:3] == ["--config.seed=5", "--config.stages.rl.group_size=8"]


def test_bad_input_leaves_nothing_where_nothing_was(folder, call, monkeypatch):
    assert call("--set", f"{RATE}x=1")[0] == 2 and not (folder / "out").exists()
    monkeypatch.setattr(sweep, "check_trials", Mock(side_effect=ConfigError("no such file")))
    assert call("--set", f"{RATE}=1")[0] == 2 and not (folder / "out").exists()
    (folder / "out").mkdir()
    assert call("--set", f"{RATE}=1")[0] == 2 and (folder / "out").exists()


def test_sampled_trials_are_limited_over_all_starts_and_differ(folder, call):
    (folder / "space.py").write_text(SPACE.replace('categorical("rate", [1.0, 2.0])', 'float("rate", 1.0, 2.0)'))
    refused = ConfigError("rl.py: stages.rl.init.path: there is no folder m")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "check_trials", Mock(side_effect=refused))
        assert call("--space=space.py", "--trials=3", "--sampler=random") == (2, "", f"error: {refused}\n")
    assert call("--space=space.py", "--trials=2", "--sampler=random")[0] == 0
    assert call("--space=space.py", "--trials=3", "--sampler=random")[0] == 0
    assert call("--space=space.py", "--trials=5", "--jobs=2")[0] == 0
    refused, *trials = study_of(folder).trials
    assert (
        diary(folder, "end")[0] == f"001_learning_rate={trials[0].params['rate']:.4g}_seed={trials[0].params['seed']}"
    )
    assert refused.state.name == "FAIL" and len(trials) == 5 and len({trial.params["rate"] for trial in trials}) == 5
    assert all(trial.value == pytest.approx(3 * trial.params["rate"]) for trial in trials)


def test_a_file_whose_settings_are_never_taken_ends_the_sweep(folder, call):
    (folder / "space.py").write_text(f"""
def trial(trial):
    return {{"{RATE}": 1.0 + trial.number, "stages.rl.group_size": 4 if trial.number == 0 else -1}}
""")
    code, out, err = call("--space=space.py", "--trials=2")
    assert (
        code == 2
        and "stages.rl.group_size=-1 must be" in err
        and diary(folder, "end") == ["000_learning_rate=1.0_group_size=4"]
    )
    assert len(re.findall("^trial .* must be", out, flags=re.MULTILINE)) == 9


def test_a_trial_that_others_are_better_than_is_stopped(folder, call, monkeypatch):
    monkeypatch.setattr(local, "_METRICS_SECONDS", 0.0)
    code, out, _ = call("--set", f"{RATE}=6,5,4,3,2,0.5,0.25", "--pruner=median")
    study = study_of(folder)
    assert code == 0 and "006_learning_rate=0.25: stopped, others are better" in out
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 5 + ["PRUNED"] * 2  # a median is of five
    assert study.trials[-1].intermediate_values == {1: 0.25} and len(diary(folder, "end")) == 5


def test_stages_before_the_last_that_changes_are_shared_and_made_once(folder, call):
    source = CONFIG.replace("    return", '    base = {**rl, "init": {"kind": "hf", "path": "n"}}\n    return')
    (folder / "rl.py").write_text(source.replace('{"rl": rl}', '{"base": base, "rl": rl}'))

    def paths(settings, name="t"):
        return dict(prepare("rl.py", [], 0, settings, folder / "out" / name).stages)

    one, two = paths({RATE: "1"}), paths({RATE: "2"}, "u")
    assert one["base"] == two["base"] and one["base"].parent == folder / "out" and one["rl"] == folder / "out/t/rl"
    assert paths({RATE: "1", "seed": "1"})["base"] != one["base"]
    longer = {"stages.base.num_updates": "7"}
    assert paths(longer)["base"] == folder / "out/t/base"
    both = paths({**longer, RATE: "1"})["base"]
    assert both == paths({**longer, RATE: "2"}, "u")["base"] != one["base"] and both.parent == folder / "out"
    code, _, _ = call("--set", f"{RATE}=1,2", "--jobs=2", f"--config.stages.base.workdir={folder}/out/base")
    lines = (folder / "out" / "diary").read_text().splitlines()
    assert code == 0 and lines.index("makes 000_learning_rate=1") < lines.index("start 001_learning_rate=2")
    assert len(diary(folder, "makes")) == 1 and len(diary(folder, "end")) == 2


def test_slots_share_cores_and_gpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 6, 7})
    assert [slot.cores for slot in local.make_slots(2)] == [(0, 1), (2, 6, 7)]
    assert (
        "CUDA_VISIBLE_DEVICES" not in local.make_slots(2)[0].environment()
    )  # JAX has no plugin here, or runs on the CPU
    monkeypatch.setattr(local.importlib.util, "find_spec", lambda name: name == "jax_cuda13_plugin")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert [slot.environment()["CUDA_VISIBLE_DEVICES"] for slot in local.make_slots(2)] == ["4,5", "6,7"]
    with pytest.raises(ValueError, match="--jobs=5 must be at least 1 and at most the 4 GPUs here"):
        local.make_slots(5)


@pytest.fixture
def script(call, folder):
    """The script of a cluster for two rates and two seeds of a config with a shared stage, checked; as a file."""

    def make(*flags):
        source = CONFIG.replace("    return", '    base = {**rl, "init": {"kind": "hf", "path": "n"}}\n    return')
        (folder / "rl.py").write_text(source.replace('{"rl": rl}', '{"base": base, "rl": rl}'))
        code, out, err = call(
            "--set", f"{RATE}=1,2", "--seeds=0,1", "--config.stages.rl.template=r1", *flags, "--dry-run"
        )
        assert code == 0 and err == "" and not (folder / "out" / "optuna.db").exists()
        (folder / "launch.sh").write_text(out)
        if SHELLCHECK:
            checked = subprocess.run([SHELLCHECK, folder / "launch.sh"], capture_output=True, text=True)
            assert checked.returncode == 0, checked.stdout
        return out

    return make


def run_script(folder, **variables):
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"} | variables
    return subprocess.run(["bash", "launch.sh"], env=environment, capture_output=True, text=True, check=True).stdout


def test_a_slurm_script_submits_itself_and_each_task_is_a_run(script, folder):
    text = script("--launch=slurm", "--jobs=1")
    assert "#SBATCH --requeue" in text
    (folder / "sbatch").write_text('#!/usr/bin/env bash\necho "$*" >> calls\nwc -l < calls\n')
    (folder / "sbatch").chmod(0o755)
    assert run_script(folder) == "job 1: 2 runs\njob 2: 4 runs\n"
    assert (folder / "calls").read_text().splitlines() == [
        "--parsable --array=0-1%1 --export=ALL,WAVE=0 launch.sh",
        "--parsable --array=0-3%1 --dependency=afterok:1 --export=ALL,WAVE=1 launch.sh",
    ]
    of_base = run_script(folder, WAVE="0", SLURM_ARRAY_TASK_ID="1", DRY_RUN="1")
    assert of_base.startswith("srun ") and of_base.endswith("out/001_learning_rate=1_seed=1 --stages=base \n")
    last = run_script(folder, WAVE="1", SLURM_ARRAY_TASK_ID="3", DRY_RUN="1")
    assert f"--config.{RATE}=2 --config.seed=1 " in last and "template=r1" in last and "--stages" not in last


@pytest.mark.parametrize("cluster", ["xpk", "gke"])
def test_an_xpk_script_makes_a_workload_a_run(script, folder, cluster):
    assert "# 4 runs read what these make" in script(f"--launch={cluster}")
    lines = run_script(folder, CLUSTER="c", TPU_TYPE="v5p-8", IMAGE="i", DRY_RUN="1").splitlines()
    assert [re.search(r"--workload=(\S+)", line)[1] for line in lines] == ["r1jax-base-0", "r1jax-base-1"]
    assert all("r1jax.run" in line and line.endswith("--stages=base ") for line in lines)
    for seed in "01":
        settings, constant = {RATE: "1", "seed": seed}, ["--config.stages.rl.template=r1"]
        base = prepare("rl.py", constant, 0, settings, folder / "out" / "000").shared["base"]
        base.mkdir(parents=True)
        (base / "DONE").touch()
    script(f"--launch={cluster}")
    lines = run_script(folder, CLUSTER="c", TPU_TYPE="v5p-8", IMAGE="i", DRY_RUN="1").splitlines()
    assert [re.search(r"--workload=(\S+)", line)[1] for line in lines] == [f"r1jax-{number}" for number in range(4)]


def test_what_a_cluster_has_done_is_taken_down_and_the_rest_started(call, folder, monkeypatch):
    (folder / "sbatch").write_text("#!/usr/bin/env bash\necho 7\n")
    (folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    grid = ["--set", f"{RATE}=1,2,3", "--launch=slurm"]
    assert call(*grid)[0] == 0
    assert [trial.state.name for trial in study_of(folder).trials] == ["RUNNING"] * 3
    for number in (1, 2):
        flags = [f"--config.{RATE}={number}", f"--workdir={folder}/out/{number - 1:03d}_learning_rate={number}"]
        subprocess.run([*STUB, *flags], env=os.environ | {"OMP_NUM_THREADS": ""}, check=True)
    assert call(*grid)[0] == 0
    assert [trial.value for trial in study_of(folder).trials] == [3.0, 6.0, None]
    assert (
        "0.0) flags=(--config=rl.py --config.stages.rl.optimizer.learning_rate=3 "
        in (folder / "out/launch.sh").read_text()
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--set", "stages.rl.group_sise=4"], "rl.py: there is no key 'stages.rl.group_sise'; near it: group_size"),
        (["--set", "stages.rk.group_size=4"], "there is no stage 'rk'"),
        (["--set", "rate=4"], "there is no key 'rate'"),
        (["--set", "stages.rl.group_size=4,many"], "stages.rl.group_size='many' must be a whole number"),
        (["--set", f"{RATE}=1", "--seeds=0,one"], "seed='one' must be a whole number"),
        (["--set", f"{RATE}="], f"--set {RATE}=: there is no value"),
        (["--set", f"{RATE}=1,,2"], f"--set {RATE}=1,,2: a value is empty"),
        (["--set", RATE], f"--set {RATE}: write --set KEY=VALUE,VALUE"),
        (["--set", f"{RATE}=1e-4,0.0001"], "the value 0.0001 is there twice"),
        (["--seeds=1,1"], "--seeds=1,1: the value 1 is there twice"),
        (["--set", f"{RATE}=1", "--set", f"{RATE}=2"], f"the key '{RATE}' is there twice"),
        (
            ["--set", "stages.rl.mesh={'data': 1},{}"],
            "two trials would be the same run: stages.rl.mesh={'data': 1}; and",
        ),
        ([], "give --set and --seeds, or --space=FILE.py"),
        (["--seeds=1", "--sampler=tpe"], "--sampler=tpe draws from a file"),
        (["--seeds=1", "--jobs=1000"], "--jobs=1000 must be at least 1 and at most the"),
        (["--seeds=1", "--trials=0"], "--trials=0 must be more than 0"),
        (["--seeds=1", "--launch=slurm", "--hours=1"], "--hours and --pruner are for trials that run here"),
        (["--seeds=1", "--config=no.py"], "--config=no.py: there is no such Python file"),
        (["--seeds=1", "--confog=3"], "unknown flag --confog"),
        (["--space=no.py", "--trials=1"], "--space=no.py: there is no such Python file"),
        (["--space=rl.py", "--trials=1"], "rl.py defines no function trial(trial)"),
        (["--space=bad.py"], "--trials is missing: how many trials --sampler=tpe may draw"),
        (["--space=bad.py", "--trials=1"], "bad.py, line 2: NameError: name 'what' is not defined"),
        (["--space=key.py", "--trials=2"], "rl.py: there is no key 'stages.rl.kl'"),
        (["--space=endless.py", "--sampler=grid"], "a grid of 'rate' needs suggest_float(..., step=...)"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(folder, call, flags, words):
    (folder / "bad.py").write_text("def trial(trial):\n    return what\n")
    (folder / "key.py").write_text("def trial(trial):\n    return {'stages.rl.kl': 1}\n")
    (folder / "endless.py").write_text("def trial(trial):\n    return {'seed': trial.suggest_float('rate', 0, 1)}\n")
    code, out, err = call(*flags)
    assert code == 2 and words in err and err.startswith("error: ") and len(err.splitlines()) == 1
    assert out == "" and diary(folder, "start") == []


@pytest.mark.slow
def test_the_check_is_that_of_a_run(folder):
    with pytest.raises(ValueError, match=r"rl\.py: stages\.rl\.init\.path: there is no folder"):
        check_trials([(prepare("rl.py", [], 0, {RATE: "1"}, folder / "out" / "t"), False)])


@pytest.mark.slow
def test_real_runs_share_a_base_and_optuna_opens_their_scores(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = tmp_path / "out"
    command = ["--config=tests/sweep/tiny_config.py", f"--workdir={folder}", "--set", f"{RATE}=1e-4,3e-4", "--jobs=2"]
    assert sweep.main(command) == 0
    (base,) = folder.glob("base-*")
    assert (base / "DONE").exists() and sorted(path.name for path in folder.glob("0*")) == [
        "000_learning_rate=1e-4",
        "001_learning_rate=3e-4",
    ]
    logs = [(trial / "log.txt").read_text() for trial in sorted(folder.glob("0*"))]
    assert "base: supervised in" in logs[0] and "base: done before" in logs[1]
    configs = [json.loads((trial / "rl" / "config.json").read_text()) for trial in sorted(folder.glob("0*"))]
    assert [config["optimizer"]["learning_rate"] for config in configs] == [1e-4, 3e-4]
    summaries = [json.loads((trial / "summary.json").read_text()) for trial in sorted(folder.glob("0*"))]
    assert [trial.value for trial in study_of(tmp_path).trials] == [s["after"]["pass@1"] for s in summaries]
    assert sweep.main([*command, f"--config.{RATE.replace('learning_rate', 'b2')}=0.5"]) == 2
    assert "holds a run of another config" in capsys.readouterr().err


@pytest.fixture
def population(call, monkeypatch):
    stub = Path(__file__).with_name("population_stub.py")
    monkeypatch.setattr(sweep, "POPULATION", (sys.executable, "-I", str(stub)))
    return lambda *flags: call("--launch=population", *flags)


def test_a_population_is_one_process_and_its_trials_are_scored(population, folder):
    code, out, _ = population("--set", f"{RATE}=1,1.5", "--seeds=0,1", "--jobs=2")
    assert code == 0, out
    assert [trial.value for trial in study_of(folder).trials] == [3.0, 3.0, 4.5, 4.5]
    assert len(diary(folder, "end")) == 4 and (folder / "out" / "asked").read_text() == "4 members --devices=2"
    code, _, _ = population("--set", f"{RATE}=1,1.5,2", "--seeds=0,1")
    assert code == 0 and len(diary(folder, "start")) == 6  # those that are done are not run again
    assert [trial.value for trial in study_of(folder).trials][4:] == [6.0, 6.0]


def test_a_member_that_fails_is_taken_down_and_the_others_are_kept(population, folder):
    code, _, err = population("--set", f"{RATE}=1,13")
    assert code == 1 and "1 failed: --retry" in err
    trials = study_of(folder).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL"]
    assert trials[1].user_attrs["error"] == "error: 13 brings bad luck"
    (folder / "out" / "mended").touch()
    code, _, _ = population("--set", f"{RATE}=1,13", "--retry")
    assert code == 0 and [trial.value for trial in study_of(folder).trials][2] == 39.0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--set", "stages.rl.group_size=8,16"], "--launch=population: group_size differs between the trials"),
        (["--set", "stages.rl.kl_coef=0,0.1"], "kl_coef is 0 in some trials"),
        (["--seeds=0,1", "--pruner=median"], "not with --launch=population"),
        (["--space=space.py", "--trials=2"], "--launch=population trains a grid, not what --sampler=tpe draws"),
    ],
)
def test_what_a_population_cannot_do_is_refused_before_anything_is_written(population, folder, flags, message):
    (folder / "space.py").write_text("def trial(trial):\n    return {}\n")
    code, _, err = population(*flags)
    assert code == 2 and message in err and err.count("\n") == 1
    assert not (folder / "out").exists()
