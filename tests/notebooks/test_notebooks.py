"""Every notebook runs from its first cell to its last, on sizes that a test can afford, and is committed without outputs."""

import json
import re
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

FIGURE = r"{0} \[{0}, {0}\] \({0}, {0}\)".format(r"[+-]?\d[\d.e+-]*")
"""Mean [interval] (each seed)."""


def test_notebooks_are_committed_without_outputs():
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs") and cell.get("execution_count") is None, path.name


def run_notebook(stem: str, **parameters):
    """The notebook executed with these parameters after its own, and all that it printed."""
    notebook = nbformat.read(next(path for path in NOTEBOOKS if path.stem == stem), as_version=4)
    place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(source))
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    assert [out.output_type for out in outputs].count("display_data") == 1
    return "".join(out.get("text", "") for out in outputs)


def column(page: Path, name: str) -> set[str]:
    """The values that the runs of a comparison have in a column of its table of RL runs."""
    rows = re.findall("<tr>.*?</tr>", page.read_text(), flags=re.DOTALL)
    headings = [re.findall("<th[^>]*>([^<]*)</th>", row) for row in rows]
    first = next(index for index, names in enumerate(headings) if name in names)
    width = len(headings[first])
    cells = [re.findall('data-value="([^"]*)"', row) for row in rows[first + 1 :]]
    return {values[headings[first].index(name) - 1] for values in cells if len(values) == width - 1}


@pytest.fixture
def quick_kernel(monkeypatch):
    """The kernel runs each program a few times only."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


@pytest.mark.slow
@pytest.mark.usefixtures("quick_kernel")
def test_ablate_reward(tmp_path):
    printed = run_notebook("ablate_reward", WORKDIR=str(tmp_path / "ablate"), OVERRIDES=OVERRIDES)
    assert "held-out pass@1 0" in printed and printed.count("reflection words per completion") == 2
    assert column(tmp_path / "ablate" / "compare.html", "rewards[2].weight") == {"0.0", "0.5"}
    assert "reflection_bonus" in (tmp_path / "ablate" / "compare.html").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_kernel")
def test_reward_ablation(tmp_path):
    workdir = tmp_path / "ablation"
    printed = run_notebook(
        "reward_ablation",
        WORKDIR=str(workdir),
        SEEDS=(3, 4),
        RUNS=("accuracy", "+ language"),
        CAP=8,
        OVERRIDES=OVERRIDES,
    )
    assert len(list(tmp_path.glob("base-*"))) == 1  # one for all
    for name, expected in {"accuracy": [1, 0, 0, 0], "language": [1, 1, 1, 0]}.items():
        for seed in (3, 4):
            config = json.loads((workdir / name / f"seed{seed}" / "zero" / "config.json").read_text())
            assert config["seed"] == seed and [reward["weight"] for reward in config["rewards"]] == expected
            assert config["rewards"][3]["options"] == {"max_tokens": 8, "cache_tokens": 4}
    lines = (workdir / "table.md").read_text().splitlines()
    assert lines == printed.splitlines()[-len(lines) - 1 : -1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in rows[2:]] == ["(base model)", "accuracy", "+ language", "+ language, change"]
    assert all(len(row) == 7 and all(re.fullmatch(FIGURE, cell) for cell in row[1:]) for row in rows[2:])
    assert float(rows[2][2].split()[0]) > 1.0  # tokens of the base model's responses
    assert (workdir / "curves.png").stat().st_size > 10_000
    assert column(workdir / "compare.html", "rewards[2].weight") == {"0.0", "1.0"}
