"""Stands for `r1jax run` in the tests of sweeps: goes on from the rows that are there, and keeps a diary beside the trials."""

import json
import os
import signal
import sys
import time
from pathlib import Path

flags = dict(flag.removeprefix("--").split("=", 1) for flag in sys.argv[1:])
folder = Path(flags["workdir"])
(folder / "rl").mkdir(parents=True, exist_ok=True)


def note(what):
    with (folder.parent / "diary").open("a") as diary:
        diary.write(f"{what} {folder.name}\n")


note("start")
note(f"cores={len(os.sched_getaffinity(0))} threads={os.environ['OMP_NUM_THREADS']}")
base = flags.get("config.stages.base.workdir")
if base and not (Path(base) / "DONE").exists():
    time.sleep(0.5)
    Path(base).mkdir(exist_ok=True)
    note("makes")
    (Path(base) / "DONE").touch()
rate = float(flags["config.stages.rl.optimizer.learning_rate"])
metrics = folder / "rl" / "metrics.jsonl"
begin = len(metrics.read_text().splitlines()) if metrics.exists() else 0
for step in range(begin + 1, 4):
    time.sleep(0.03 if rate >= 1 else 0.5 if step == 1 else 10.0)  # those below 1 wait to be stopped after a row
    with metrics.open("a") as file:
        file.write(json.dumps({"step": step, "eval/pass@1": rate * step, "time/eval": 0.1}) + "\n")
if rate == 9.0 and begin == 0:
    os.kill(os.getpid(), signal.SIGKILL)
if rate == 13.0 and not (folder.parent / "mended").exists():
    sys.exit("error: 13 brings bad luck")
summary = {"after": {"pass@1": rate}, "stages": {"rl": {}} | ({"base": {}} if base else {})}
(folder / "summary.json").write_text(json.dumps(summary))
note("end")
