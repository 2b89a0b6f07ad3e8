import json

import pytest

from r1jax.report import compare, write_report
from r1jax.report.tables import scores
from r1jax.workdir.read import read_run
from tests.report.synthetic import completion_rows, make_pretrain_stage, make_rl_stage, write_lines
from tests.report.test_page import read

EVALUATION = {
    "tasks": {
        "pair_sum": {
            "cons@16": 0.9, "cons@16_low": 0.85, "cons@16_high": 0.95, "cons@2": 0.8, "pass@1": 0.75, "pass@1_low": 0.7,
            "pass@1_high": 0.8, "rewards/language/mean": 1.0, "rewards/language/errors": 0,
        },
        "helpful": {"pass@1": 0.0, "rewards/helpfulness/mean": 0.625, "rewards/helpfulness/errors": 3},
    },
    "wall_seconds": 12.0,
    "seed": 0,
}  # fmt: skip


def make_stage(path, kind, summary, rows=(), **files):
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"stage": kind, "seed": 0}))
    (path / "summary.json").write_text(json.dumps(summary))
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    write_lines(path / "metrics.jsonl", list(rows))
    (path / "DONE").touch()
    return path


def stage_of(path):
    return read_run(path).stages[0]


def test_an_evaluation_has_metrics_down_and_tasks_across(tmp_path):
    rows = [{"step": 1, "pair_sum/pass@1": 0.75}, {"step": 2, "helpful/pass@1": 0.0}]
    path = make_stage(tmp_path / "eval", "evaluate", EVALUATION, rows)
    for step, kind in ((1, "pair_sum"), (2, "helpful")):
        found = [row | {"problem": {"task": kind}} for row in completion_rows(step, "heldout", late=True)]
        write_lines(path / "completions" / f"heldout_{step:06d}.jsonl", found)
    text = read(write_report(path))
    assert "<th>pair_sum</th><th>helpful</th>" in text
    assert '<td>pass@1</td><td>0.750 <span class="quiet">(0.700–0.800)</span></td><td>0</td>' in text
    assert text.index("<td>pass@1</td>") < text.index("<td>cons@2</td>") < text.index("<td>cons@16</td>")
    assert "<td>rewards/helpfulness/mean</td><td>–</td><td>0.625</td>" in text
    assert "<td>rewards/helpfulness/errors</td><td>–</td><td>3</td>" in text
    assert "rewards/language/errors" not in text and "_low" not in text.split("Settings")[0]
    assert "<figure" not in text  # a task is no point of a curve
    assert "finished, 12 s" in text
    assert scores(stage_of(path)) == ['pair_sum 0.750 <span class="quiet">(0.700–0.800)</span>', "helpful 0"]


def test_a_set_has_its_domains_and_the_reasons_of_what_was_dropped(tmp_path):
    table = {
        "domains": [{"domain": "math", "samples": 1200, "rounds": 1.0, "tokens": 44.25}],
        "prompts": 100,
        "samples": 1600,
        "rejected": {"wrong": 380, "mixed_language": 20},
    }
    rows = [
        {"step": 1, "kept_share": 0.75, "rejected/wrong": 180, "time/step": 2.0},
        {"step": 2, "kept_share": 0.5, "rejected/wrong": 200, "time/step": 2.0},
    ]
    path = make_stage(tmp_path / "reject", "reject", {"kept": 1200, "wall_seconds": 9}, rows, table=table)
    text = read(write_report(path))
    assert "<td>math</td><td>1,200</td><td>1</td><td>44.2</td>" in text
    assert "Dropped, of 1,600 samples of 100 prompts" in text and "<td>wrong</td><td>380</td>" in text
    assert "<figcaption>Dropped<" in text and "<figcaption>Kept<" in text
    assert scores(stage_of(path)) == ["1,200 samples kept"]


def test_pairs_and_a_reward_model_s_figures(tmp_path):
    heldout = {"accuracy": 0.875, "ece": 0.05, "length/bias": -0.01, "margin": None}
    summary = {"kind": "helpful", "heldout": heldout, "examples": {"train": 90, "heldout": 10}, "updates": 4}
    rows = [
        {
            "step": step,
            "loss": 0.6,
            "accuracy": 0.1 * step,
            "margin": 0.2,
            "mean_reward": step,
            "min_reward": -1,
            "max_reward": 1,
        }
        for step in range(1, 5)
    ]
    path = make_stage(tmp_path / "helpful", "reward_model", summary, rows)
    text = read(write_report(path))
    assert "<td>ece</td><td>0.050</td><td>expected calibration error</td>" in text
    assert "<td>length/bias</td><td>-0.010</td>" in text and "<td>train</td><td>90</td>" in text
    assert "<figcaption>Judged right<" in text and "<figcaption>Rewards<" in text and "Other metrics" not in text
    assert scores(stage_of(path)) == ["held-out accuracy 0.875"]
    counts = {"candidates": 50, "unclear": 8, "kept": 40}
    path = make_stage(tmp_path / "pairs", "preferences", {"pairs": 40, "counts": counts})
    assert "<h3>Pairs</h3>" in read(write_report(path)) and scores(stage_of(path)) == ["40 pairs"]


@pytest.mark.parametrize("bad", ["x", 5, [1], {"x": "y"}, {"<b>": {"<i>": "z", "pass@x": 1}}])
def test_hostile_summaries(tmp_path, bad):
    keys = ("tasks", "heldout", "examples", "counts", "kept", "pairs", "claims")
    path = make_stage(tmp_path / "s", "evaluate", dict.fromkeys(keys, bad), table={"domains": bad, "rejected": bad})
    (tmp_path / "s" / "table.json").write_text(json.dumps({"domains": bad, "rejected": bad, "samples": bad}))
    text = read(write_report(path))
    assert "<b>" not in text.replace("<div><b>", "") and "<i>" not in text


def test_evaluations_are_compared_by_their_figures(tmp_path):
    for run in "ab":
        make_stage(tmp_path / run / "eval", "evaluate", EVALUATION, [{"step": 1, "pair_sum/pass@1": 0.75}])
    text = read(compare([tmp_path / "a", tmp_path / "b"], out=tmp_path / "compare.html"))
    assert text.count("helpful 0</td>") == 2 and "<figure" not in text


def test_a_pipeline_has_a_line_a_stage_and_all_are_folded(tmp_path):
    make_pretrain_stage(tmp_path / "base", updates=3)
    for seed in range(3):
        make_rl_stage(tmp_path / f"zero_{seed}", seed=seed, updates=2)
    for name in ("eval_zero", "eval_r1"):
        make_stage(tmp_path / name, "evaluate", EVALUATION)
    claim = {"claim": "pure RL teaches", "paper": "15.6 → 77.9", "ours": "0.2 → 0.9", "held": True, "rule": "above"}
    make_stage(tmp_path / "claims", "claims", {"claims": 1, "held": 1, "wall_seconds": 1.0}, claims=[claim])
    text = read(write_report(tmp_path))
    assert text.count('<details class="stage">') == 7 and text.count('<a href="#') == 7
    assert text.index("The paper's claims") < text.index("<h2>Stages</h2>") < text.index('<details class="stage">')
    assert "pass@1 0.231 → 0.872, cons@16 0.340 → 0.940" in text and "1 of 1 claims held" in text
    assert text.count("held-out pass@1") == 3  # the cards of the RL stages, inside
