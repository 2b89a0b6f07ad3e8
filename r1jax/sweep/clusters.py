"""The trials of a sweep as one bash script for a cluster, made of the start scripts in `r1jax/launch/scripts`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from r1jax.sweep.trials import Trial

SCRIPTS = Path(__file__).resolve().parent.parent / "launch" / "scripts"
CLUSTERS = {"slurm": "slurm.sbatch", "xpk": "gke_xpk.sh", "gke": "gke_xpk.sh"}
Wave = dict[str, list[str]]
"""Name -> flags of runs that may be under way at the same time."""


def waves_of(trials: Sequence[Trial]) -> list[Wave]:
    """The runs of the trials: for each stage that they share, in order, one for a directory that is not done; then the
    trials themselves, which find those stages done."""
    waves: list[Wave] = []
    for name in dict.fromkeys(name for trial in trials for name in trial.shared):
        makers = {trial.shared[name]: trial for trial in reversed(trials) if name in trial.shared}
        to_make = sorted(trial.number for path, trial in makers.items() if not (path / "DONE").exists())
        wave = {f"{name}-{t.number}": [*_flags(t), f"--stages={name}"] for t in trials if t.number in to_make}
        waves += [wave] if wave else []
    return [*waves, {str(trial.number): _flags(trial) for trial in trials}]


def launch_script(cluster: str, trials: Sequence[Trial], *, title: str, jobs: int | None) -> str:
    """The script of one of CLUSTERS. title: its first line. jobs: the most runs at a time, where the cluster can count them."""
    waves = waves_of(trials)
    return _slurm(waves, title, jobs) if cluster == "slurm" else _xpk(waves, title)


def _slurm(waves: Sequence[Wave], title: str, jobs: int | None) -> str:
    """Outside of SLURM the script submits itself, an array a wave; in SLURM a task of an array is one run."""
    script = SCRIPTS / CLUSTERS["slurm"]
    submits, cases = [], []
    for number, wave in enumerate(waves):
        array = f"--array=0-{len(wave) - 1}" + (f"%{jobs}" if jobs else "")
        after = '--dependency="afterok:$job" ' if number else ""
        submits.append(f'  job=$(sbatch --parsable {array} {after}--export="ALL,WAVE={number}" "$0")')
        submits.append(f'  echo "job $job: {len(wave)} runs"')
        cases += [f"  {number}.{task}) flags=({shlex.join(flags)}) ;;" for task, flags in enumerate(wave.values())]
    lines = [
        "#!/usr/bin/env bash",
        f"# {title}",
        "# bash THIS_FILE submits them; what stands below for a run's GPUs and time may be changed.",
        *(line for line in script.read_text().splitlines() if line.startswith("#SBATCH ")),
        "set -euo pipefail",
        f"cd {shlex.quote(str(Path.cwd()))}",
        'if [ -z "${SLURM_ARRAY_TASK_ID:-}" ]; then',
        *submits,
        "  exit",
        "fi",
        'case "$WAVE.$SLURM_ARRAY_TASK_ID" in',
        *cases,
        '  *) echo "there is no run $WAVE.$SLURM_ARRAY_TASK_ID" >&2; exit 2 ;;',
        "esac",
        f'exec bash {shlex.quote(str(script))} "${{flags[@]}}"',
    ]
    return "\n".join(lines) + "\n"


def _xpk(waves: Sequence[Wave], title: str) -> str:
    """Makes a workload a run, of the first wave only: xpk knows no order of workloads."""
    first, *later = waves
    rest = f"# {sum(map(len, later))} runs read what these make: start the sweep again when these have ended."
    script = shlex.quote(str(SCRIPTS / CLUSTERS["xpk"]))
    lines = [
        "#!/usr/bin/env bash",
        f"# {title}",
        "# CLUSTER=... TPU_TYPE=... IMAGE=... bash THIS_FILE makes a workload a run.",
        *([rest] if later else []),
        "set -euo pipefail",
        *(
            f'NAME="${{NAME:-r1jax}}-{name.replace("_", "-").lower()}" bash {script} {shlex.join(flags)}'
            for name, flags in first.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _flags(trial: Trial) -> list[str]:
    return [*trial.flags, f"--workdir={trial.folder}"]
