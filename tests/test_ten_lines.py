"""The experiment that README begins with: ten lines, from the folder that holds what they name, to its end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mine import write_mine

REPOSITORY = Path(__file__).parent.parent
SMALL = {
    "num_updates": 2,
    "questions_per_phase": 2,
    "template": "plain",
    "max_prompt_tokens": 64,
    "max_new_tokens": 16,
    "eval.final_problems": 2,
    "eval.problems": 1,
    "eval.final_samples": 2,
    "eval.samples": 2,
}


@pytest.mark.slow
def test_ten_lines_run_from_the_folder_that_holds_what_they_name(tmp_path):
    write_mine(tmp_path)
    command = ["-m", "r1jax", "run", "--config=mine.py", "--workdir=out"]
    command += [f"--config.stages.rl.{key}={value}" for key, value in SMALL.items()]
    done = subprocess.run(
        [sys.executable, "-P", *command],  # -P: as with the command `r1jax`, Python itself adds no folder to its path
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},  # the package as it is here; not the experiment's folder
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "cannot tell" not in done.stdout + done.stderr
    assert "2 updates" in done.stdout and "report: out/report.html" in done.stdout
    assert (tmp_path / "out" / "rl" / "DONE").exists() and (tmp_path / "out" / "report.html").exists()
    config = json.loads((tmp_path / "out" / "rl" / "config.json").read_text())
    assert config["group_size"] == 8 and config["rewards"][0]["function"] == "my_rewards:digits"
    rows = [json.loads(line) for line in (tmp_path / "out" / "rl" / "metrics.jsonl").read_text().splitlines()]
    means = [row["rewards/digits/mean"] for row in rows if "rewards/digits/mean" in row]
    assert means and min(means) >= 0.1  # the column `animals` has reached the reward
