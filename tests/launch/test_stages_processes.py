"""Supervised, reject, preferences, reward model and evaluate on two processes leave what they leave on one."""

import json

import pytest

from r1jax.pipeline import make_stages
from r1jax.run import run_stages
from r1jax.specs.config_file import load_experiment
from tests.launch import peers
from tests.tiny import rows_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compilation")]
CONFIG = "tests/launch/stages_config.py"
SAME = {
    "cold": ["table.json", "table.md", "rejected.jsonl"],
    "pairs": ["data/pairs.jsonl", "verdicts.jsonl", "manifest.json"],
}
"""Files that are equal to the byte."""


def rows_in(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def records_of(workdir):
    """Without the digest of the weights, which were trained with sums in another order."""
    records = [record for path in sorted((workdir / "data").iterdir()) for record in rows_in(path)]
    return [record["provenance"]["model"].pop("weights") and record for record in records]


def test_stages_on_two_processes_leave_what_they_leave_on_one(tmp_path):
    one, many = tmp_path / "one", tmp_path / "many"
    assert run_stages(make_stages(load_experiment(CONFIG), one)) is not None
    command = ["-m", "r1jax.run", f"--config={CONFIG}", f"--workdir={many}"]
    codes = peers.run(command, 2, tmp_path / "log", seconds=1800)
    told = [peers.said(tmp_path / "log", process) for process in range(2)]
    assert codes == [0, 0], told[0][-3000:] + told[1][-3000:]
    assert "report: " in told[0] and "stage" not in told[1]
    for stage in ("base", "cold", "pairs", "reward", "scores"):
        rows, single = rows_of(many / stage), rows_of(one / stage)
        assert len(rows) == len(single) > 0
        for ours, theirs in zip(rows, single, strict=True):
            assert ours == pytest.approx(theirs, rel=2e-3, abs=2e-4, nan_ok=True), stage
        assert json.loads((many / stage / "environment.json").read_text())["processes"] == 2
    for stage, names in SAME.items():
        for name in names:
            found = (many / stage / name).read_text()
            assert found == (one / stage / name).read_text(), (stage, name)
    assert records_of(many / "cold") == records_of(one / "cold")
    table = (many / "cold" / "table.md").read_text()
    assert "judge: incorrect" in table and not (many / "cold" / "parts").exists()
    completions = "scores/completions/heldout_000001.jsonl"
    texts = [[row["completion"] for row in rows_in(folder / completions)] for folder in (many, one)]
    assert texts[0] == texts[1] and len(texts[0]) == 8
