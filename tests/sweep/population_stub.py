"""Stands for `r1jax.population` in the tests of sweeps: runs the stub of `r1jax run` for each entry of the list."""

import json
import os
import subprocess
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
entries = json.loads(Path(sys.argv[1]).read_text())
codes = []
for entry in entries:
    command = [sys.executable, "-I", str(Path(__file__).with_name("stub.py")), *entry["flags"]]
    codes.append(
        subprocess.run([*command, f"--workdir={entry['workdir']}"], stderr=subprocess.PIPE, text=True, check=False)
    )
    if codes[-1].returncode:
        (Path(entry["workdir"]) / "log.txt").write_text(codes[-1].stderr)
Path(sys.argv[1]).with_name("asked").write_text(f"{len(entries)} members {sys.argv[2]}")
sys.exit(int(any(done.returncode for done in codes)))
