"""The notebooks: kept with their outputs, which hold no error, warning or path of a machine; each runs in two minutes."""

import os
import re
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = ["ablate_reward", "claims", "forward_and_cache", "grpo_by_hand", "read_a_run", "read_a_sweep"]
MOST_BYTES = 600_000
OF_A_MACHINE = re.compile(r"(?<![\w.])/(home|root|tmp|work|Users|usr|mnt|var|opt)/")


def texts_of(output) -> Iterator[str]:
    """What a person reads of an output of a cell."""
    if output.output_type == "stream":
        yield output.text
    for kind, text in output.get("data", {}).items():
        if kind.startswith("text/"):
            yield text


def faults_of(notebook) -> list[str]:
    """What must not be in kept outputs."""
    faults = []
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        where = f"code cell {number}"
        if cell.execution_count != number + 1:
            faults.append(f"{where}: not run in order")
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                faults.append(f"{where}: {output.get('ename', output.get('text'))}")
            for text in texts_of(output):
                if re.search(r"\bwarning\b", text, re.IGNORECASE) or OF_A_MACHINE.search(text):
                    faults.append(f"{where}: {text[:200]}")
    return faults


def pictures_of(notebook) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_these_are_the_notebooks():
    assert [path.stem for path in NOTEBOOKS] == NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_and_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert faults_of(notebook) == []
    assert pictures_of(notebook) >= 1
    assert path.stat().st_size < MOST_BYTES
    assert all("execution" not in cell.metadata for cell in notebook.cells)  # times of day


def test_faults_are_found():
    new = nbformat.v4
    streams = [
        ("stderr", "x"),
        ("stdout", "a Warning: b"),
        ("stdout", "see /home/me/run"),
        ("stdout", "runs/tmp/a is fine"),
    ]
    cells = [
        new.new_code_cell("", execution_count=number + 1, outputs=[new.new_output("stream", name=name, text=text)])
        for number, (name, text) in enumerate(streams)
    ]
    failed = new.new_output("error", ename="ValueError", evalue="", traceback=[])
    cells += [new.new_code_cell("", execution_count=None), new.new_code_cell("", execution_count=6, outputs=[failed])]
    found = [fault.partition(":")[0] for fault in faults_of(new.new_notebook(cells=cells))]
    assert found == ["code cell 0", "code cell 1", "code cell 2", "code cell 4", "code cell 5"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the notebooks find configs/ beside them, and leave runs/; r1jax is that of this repository."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    flags = os.environ.get("XLA_FLAGS", "").replace("--xla_force_host_platform_device_count=8", "")
    monkeypatch.setenv("XLA_FLAGS", flags)
    return tmp_path / "notebooks"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the kernel's transport
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_has_the_pictures_that_are_kept(path, folder):
    notebook, kept = (nbformat.read(path, as_version=4) for _ in range(2))
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{path.stem}: {time.monotonic() - began:.0f} s, {seconds:.0f} s of CPU, load {os.getloadavg()[0]:.1f}")
    assert faults_of(notebook) == []
    assert pictures_of(notebook) == pictures_of(kept)
