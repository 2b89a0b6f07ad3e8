"""The start scripts as far as they can be checked without a cluster: syntax, what they would run, what they do on an end."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "r1jax" / "launch" / "scripts"
FLAGS = ["--config=configs/r1/zero.py", "--workdir=/mnt/shared/a run"]
ALL = sorted(SCRIPTS.iterdir())
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def call(name, *flags, path=None, **variables):
    known = {"PATH": os.environ["PATH"] if path is None else f"{path}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", str(SCRIPTS / name), *flags], env=known | variables, capture_output=True, text=True, timeout=60
    )


def fake(folder, name, body):
    """A program on PATH that writes down how it was called."""
    file = folder / name
    file.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> {folder}/calls\n{body}\n')
    file.chmod(0o755)


def calls(folder):
    return (folder / "calls").read_text().splitlines()


def test_there_are_three():
    assert [path.name for path in ALL] == ["gke_xpk.sh", "slurm.sbatch", "tpu_vm.sh"]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_they_are_bash(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert path.stat().st_mode & 0o100 and path.read_text().startswith("#!/usr/bin/env bash\n")


@pytest.mark.skipif(SHELLCHECK is None, reason="no shellcheck: pip install -r requirements-dev.txt")
def test_shellcheck_finds_nothing():
    done = subprocess.run([str(SHELLCHECK), "--shell=bash", *map(str, ALL)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_dry_runs_print_the_commands():
    tpu = call("tpu_vm.sh", "run", *FLAGS, TPU_NAME="pod", ZONE="us-east5-a", PROJECT="mine", DRY_RUN="1")
    assert tpu.stdout == (
        "gcloud compute tpus tpu-vm ssh pod --zone=us-east5-a --project=mine --worker=all --command=cd\\ r1jax\\ \\&\\&\\ "
        "exec\\ .venv/bin/python\\ -m\\ r1jax.run\\ --distributed=tpu\\ --config=configs/r1/zero.py\\ "
        "--workdir=/mnt/shared/a\\\\\\ run \n"
    )
    setup = call("tpu_vm.sh", "setup", TPU_NAME="pod", ZONE="us-east5-a", DRY_RUN="1").stdout.splitlines()
    assert len(setup) == 3 and all("--worker=all" in line for line in setup)
    assert setup[1].startswith("gcloud compute tpus tpu-vm scp --recurse ") and " pod:r1jax/ " in setup[1]
    xpk = call("gke_xpk.sh", *FLAGS, CLUSTER="c", TPU_TYPE="v5p-1024", IMAGE="i:1", NUM_SLICES="2", DRY_RUN="1")
    assert xpk.stdout.startswith("xpk workload create --cluster=c --workload=r1jax --tpu-type=v5p-1024 --num-slices=2 ")
    assert "--command=exec\\ python\\ -m\\ r1jax.run\\ --distributed=tpu\\ --config=configs/r1/zero.py" in xpk.stdout
    slurm = call("slurm.sbatch", *FLAGS, DRY_RUN="1")
    assert slurm.stdout == (
        "srun --kill-on-bad-exit=1 .venv/bin/python -m r1jax.run --distributed=slurm --config=configs/r1/zero.py "
        "--workdir=/mnt/shared/a\\ run \n"
    )


@pytest.mark.parametrize(
    ("name", "flags", "variables", "words"),
    [
        ("tpu_vm.sh", [], {}, "say setup or run"),
        ("tpu_vm.sh", ["run"], {"ZONE": "z"}, "TPU_NAME is not set"),
        ("tpu_vm.sh", ["run"], {"TPU_NAME": "n"}, "ZONE is not set"),
        ("tpu_vm.sh", ["run"], {"TPU_NAME": "n", "ZONE": "z"}, "takes the flags of r1jax.run"),
        ("tpu_vm.sh", ["start"], {"TPU_NAME": "n", "ZONE": "z"}, "unknown command start"),
        ("gke_xpk.sh", [], {}, "takes the flags of r1jax.run"),
        ("gke_xpk.sh", FLAGS, {"CLUSTER": "c", "IMAGE": "i"}, "TPU_TYPE is not set"),
        ("slurm.sbatch", [], {}, "takes the flags of r1jax.run"),
        ("slurm.sbatch", FLAGS, {}, "submit it with sbatch"),
    ],
)
def test_what_is_missing_is_said(name, flags, variables, words):
    done = call(name, *flags, **variables)
    assert done.returncode == 2 and words in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    ("code", "requeued"), [(0, False), (1, False), (2, False), (75, True), (134, True), (137, True), (143, True)]
)
def test_slurm_puts_back_what_can_go_on(code, requeued, tmp_path):
    fake(tmp_path, "srun", f"exit {code}")
    fake(tmp_path, "scontrol", "")
    done = call("slurm.sbatch", *FLAGS, path=tmp_path, SLURM_JOB_ID="7")
    assert done.returncode == code
    assert calls(tmp_path)[1:] == (["scontrol requeue 7"] if requeued else [])
    often = call("slurm.sbatch", *FLAGS, path=tmp_path, SLURM_JOB_ID="7", SLURM_RESTART_COUNT="20")
    assert often.returncode == code and len([line for line in calls(tmp_path) if "requeue" in line]) == requeued


def test_a_tpu_run_that_lost_a_worker_is_started_again(tmp_path):
    fake(tmp_path, "gcloud", f'[ "$(wc -l < {tmp_path}/calls)" -ge 3 ] || exit 134')
    done = call("tpu_vm.sh", "run", *FLAGS, path=tmp_path, TPU_NAME="pod", ZONE="z")
    assert done.returncode == 0 and len(calls(tmp_path)) == 3
    assert "a worker was lost or hung (exit code 134); start 3 goes on" in done.stderr
    fake(tmp_path, "gcloud", "exit 75")
    (tmp_path / "calls").unlink()
    done = call("tpu_vm.sh", "run", *FLAGS, path=tmp_path, TPU_NAME="pod", ZONE="z", RESTARTS="1")
    assert done.returncode == 75 and len(calls(tmp_path)) == 2
