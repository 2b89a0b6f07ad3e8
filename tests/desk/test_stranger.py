"""A stranger's script: their own reward in a cell of a notebook, six runs, a table and a plot. It uses what README says alone."""

import os
import resource
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
CELLS = [
    """\
def brief(completions, **columns):
    return [max(0.0, 1 - len(text.split()) / 25) for text in completions]
""",
    """\
from r1jax.specs.config_file import load_experiment
from r1jax.sweep.grid import run_grid

experiment = load_experiment("configs/tiny.py")
experiment.stages["zero"]["rewards"].append({"function": "__main__:brief", "weight": 0.0})
weights = {"stages.zero.rewards[2].weight": [0.0, 0.25, 0.5]}
sweep = run_grid(experiment, workdir="brief", settings=weights, seeds=[0, 1])
print(sweep.table)
""",
    """\
import matplotlib.pyplot as plt

for run in sweep.runs:
    metrics = run.stage.metrics
    mean, low, high = (metrics[f"eval/pass@1{end}"].values[-1] for end in ("", "_low", "_high"))
    plt.errorbar(run.settings["weight"] + 0.03 * run.settings["seed"], mean, [[mean - low], [high - mean]], fmt="o")
plt.xlabel("weight of brief")
plt.ylabel("held-out pass@1")
plt.savefig("brief.png")
""",
]
"""As a stranger would type them; the second is in r1jax/sweep/README.md but for its names."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the kernel's transport
def test_six_runs_with_an_own_reward_a_table_and_a_plot(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XLA_FLAGS", "")  # not the eight devices of the tests
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{time.monotonic() - began:.0f} s, {seconds:.0f} s of CPU, load {os.getloadavg()[0]:.1f}")
    printed = "".join(output.text for output in notebook.cells[1].outputs if output.output_type == "stream")
    rows = [line.split() for line in printed[printed.index("trial ") :].splitlines()]
    assert rows[0][:4] == ["trial", "weight", "seed", "eval/pass@1"]
    assert sorted(row[1:3] for row in rows[1:]) == [[w, s] for w in ("0.0", "0.25", "0.5") for s in ("0", "1")]
    assert [row[4] for row in rows[1:]] == ["done"] * 6
    assert all(0 <= float(row[3]) <= 1 for row in rows[1:])  # a reward may be hacked: an empty answer is brief
    assert (tmp_path / "brief.png").read_bytes()[:4] == b"\x89PNG"
    assert len(list((tmp_path / "brief").glob("base-*/DONE"))) == 1  # one base for all
