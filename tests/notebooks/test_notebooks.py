"""Every notebook runs from its first cell to its last, on sizes that a test can afford, and is committed without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
SMALL = {
    "base": {
        "num_updates": 2,
        "log_every": 1,
        "documents_per_update": 8,
        "init.tokenizer.num_texts": 100,
        "optimizer.warmup_steps": 0,
    },
    "zero": {
        "num_updates": 4,
        "optimizer.warmup_steps": 0,
        "questions_per_phase": 2,
        "updates_per_phase": 2,
        "group_size": 2,
        "rows_per_microbatch": 4,
        "max_new_tokens": [[0, 8]],
        "eval.every": 2,
        "eval.problems": 2,
        "eval.samples": 2,
        "eval.final_problems": 2,
        "eval.final_samples": 2,
        "eval.problems_per_batch": 2,
    },
}
OVERRIDES = [f"--config.stages.{stage}.{key}={value}" for stage, keys in SMALL.items() for key, value in keys.items()]


def test_notebooks_are_committed_without_outputs():
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs") and cell.get("execution_count") is None, path.name


@pytest.mark.slow
def test_ablate_reward(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # the kernel runs each program a few times only
    path = next(path for path in NOTEBOOKS if path.stem == "ablate_reward")
    notebook = nbformat.read(path, as_version=4)
    place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    source = f"WORKDIR = {str(tmp_path / 'ablate')!r}\nOVERRIDES = {OVERRIDES!r}"
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(source))
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    printed = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", ()))
    assert "held-out pass@1 0" in printed and printed.count("reflection words per completion") == 2
    assert [out.output_type for cell in notebook.cells for out in cell.get("outputs", ())].count("display_data") == 1
    page = (tmp_path / "ablate" / "compare.html").read_text()
    assert "<td>rewards[2].weight</td><td>0.0</td><td>0.5</td>" in page
    assert "reflection_bonus" in page
