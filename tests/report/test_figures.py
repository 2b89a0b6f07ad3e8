import json
import re

import numpy as np
import pytest

from r1jax.report import compare, write_report
from r1jax.report.figures import Curve, Drawn, axes_of, draw_panel, gaps_of, stage_figures
from r1jax.report.markup import PAGES
from r1jax.report.panels import Panel
from r1jax.workdir.read import read_run
from tests.report.synthetic import evaluated_rows, short_row, write_lines
from tests.report.test_page import read

SCORES = [0.125, 0.25, 0.5, 0.625, 0.5625]


def make_evaluated(path, scores=SCORES, *, done=True, **config):
    """An RL stage with first, last and short evaluations."""
    write_lines(path / "metrics.jsonl", evaluated_rows(scores))
    (path / "config.json").write_text(json.dumps({"stage": "rl"} | config))
    if done:
        (path / "DONE").touch()
    return path


def panel(text, title):
    """The HTML of one panel."""
    return next(part for part in text.split("<figure>") if part.startswith(f"<figcaption>{title}<"))


def test_every_number_printed_is_a_logged_one(tmp_path):
    """Of curves long enough to be smoothed: in cards, legends and the overview line."""
    values = np.random.default_rng(0).normal(2.0, 0.5, 100).round(3)
    write_lines(tmp_path / "a" / "metrics.jsonl", [{"step": i, "reward": v, "loss": v} for i, v in enumerate(values)])
    write_lines(tmp_path / "b" / "metrics.jsonl", [{"step": i, "loss": v} for i, v in enumerate(values)])
    for name, stage in (("a", "rl"), ("b", "supervised")):
        (tmp_path / name / "config.json").write_text(json.dumps({"stage": stage}))
        (tmp_path / name / "DONE").touch()
    text = read(write_report(tmp_path))
    ends = f"{values[0]:.2f} → {values[-1]:.2f}"
    assert f"<b>{ends}</b><span>reward" in text and f"mean {ends}</span>" in text and f"loss {ends}" in text


def test_first_and_last_evaluations_are_points_apart_from_those_along_the_way(tmp_path):
    sizes = {"problems": 128, "samples": 4, "final_problems": 512, "final_samples": 16}
    text = read(write_report(make_evaluated(tmp_path / "rl", eval=sizes)))
    scores = panel(text, "Held-out score")
    assert (
        "</i>pass@1, along the way 0.250 → 0.625<" in scores and "</i>pass@1, first and last 0.125 → 0.562<" in scores
    )
    assert 'class="points dash0" style="--h:255.0"' in scores and 'class="dash0" style="--h:255.0"' in scores
    assert "first and last evaluation (512 problems, 16 samples of each)" in scores
    assert "along the way (128 problems, 4 samples of each)" in scores


def test_pass_at_k_of_other_problems_is_in_no_panel_with_it(tmp_path):
    """pass@16 of the last evaluation is 0.5825, below pass@4 of one along the way, which is of other problems."""
    text = read(write_report(make_evaluated(tmp_path / "rl")))
    ks = panel(text, "Held-out pass@k")
    assert "pass@4 0.280 → 0.655<" in ks and "pass@1, along the way" in ks and "pass@16" not in ks
    assert "First and last evaluation" in text and "<td>pass@16</td><td>0.145</td><td>0.583</td>" in text
    assert "pass@16" not in "".join(re.findall("<figcaption>.*?</figcaption>", text))


def test_of_an_unfinished_run_the_latest_evaluation_is_apart_from_the_first(tmp_path):
    path = make_evaluated(tmp_path / "rl", done=False)
    lines = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (path / "metrics.jsonl").write_text("".join(lines[:-1]))
    text = read(write_report(path))
    assert "<b>0.125 → –</b><span>held-out pass@1<" in text
    assert "<b>0.625</b><span>held-out pass@1 at update 30</span><span>along the way, 4 samples<" in text


def test_what_does_not_change_is_a_line_of_text():
    curves = [Curve(np.arange(3.0), np.full(3, value), 0, label=f"run {value}") for value in (0.5, 2.0)]
    assert draw_panel(Panel("A & B", "unit", ()), curves, name="x") == "A & B: run 0.5 0.500, run 2.0 2"
    assert draw_panel(Panel("A", "unit", ()), curves[:1], name="x") == "A: 0.500"
    changing = Curve(np.arange(3.0), np.arange(3.0), 1, label="changes")
    assert isinstance(draw_panel(Panel("A", "unit", ()), [*curves, changing], name="x"), Drawn)


def test_flat_panels_of_a_page_are_named_below_the_others(tmp_path):
    rows = [{"step": step, "entropy": 0.5, "kl": 0.0, "grad_norm": float(step)} for step in range(1, 5)]
    write_lines(tmp_path / "metrics.jsonl", rows)
    text = read(write_report(tmp_path))
    assert "Constant, or logged once: KL to the reference: 0; Entropy: 0.500.</p>" in text
    assert "<figcaption>Gradient norm<" in text and text.count("<figure>") == 1


def test_phases_lie_before_the_time_of_their_row_and_an_evaluation_after_it(tmp_path):
    update = {"step": 4, "time": 20.0, "time/generate": 3.0, "time/update": 2.0}
    write_lines(tmp_path / "metrics.jsonl", [update, {"step": 4, "time": 26.0, "eval/pass@1": 0.5, "time/eval": 5.0}])
    (lanes,) = stage_figures(read_run(tmp_path).stages[0])[-1].drawn
    assert lanes.data["rows"] == ["sampling", "update", "evaluation"]
    assert sorted(bar[:3] for bar in lanes.data["bars"]) == [[0, 15, 18], [1, 18, 20], [2, 20, 25]]


def test_expert_load_has_a_row_a_layer(tmp_path):
    loads = [(1.5, 1.0), (1.25, 2.0)]
    rows = [{"step": 2 * i, "moe/load/moe_00": a, "moe/load/moe_01": b} for i, (a, b) in enumerate(loads)]
    write_lines(tmp_path / "metrics.jsonl", rows)
    (heat,) = stage_figures(read_run(tmp_path).stages[0])[-1].drawn
    assert heat.data["rows"] == ["moe_00", "moe_01"]
    assert [bar[:4] for bar in heat.data["bars"]] == [[0, 0, 2, 0.5], [0, 2, 4, 0.25], [1, 0, 2, 0], [1, 2, 4, 1]]


def test_runs_know_their_tokens_and_seconds_and_which_differ_in_their_seed_alone(tmp_path):
    stages = {}
    for name, config in (("a", {"seed": 0}), ("b", {"seed": 1}), ("c", {"seed": 0, "kl_coef": 0.1})):
        write_lines(tmp_path / name / "metrics.jsonl", [{"step": 2, "num_tokens": 10, "time": 3.5, "loss": 1.0}])
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        stages[name] = read_run(tmp_path / name).stages[0]
    runs = axes_of(stages)
    assert [run["setting"] for run in runs] == [0, 0, 1]
    assert runs[0]["axes"] == {"tokens": {"x": [0, 2], "y": [0, 10]}, "time": {"x": [0, 2], "y": [0, 3.5]}}


@pytest.mark.parametrize(
    ("steps", "gaps"),
    [
        ([1, 2, 5, 6], [False, True, False]),
        ([0, 10, 20, 40, 60, 80], [False] * 5),  # another cadence from 20 on
        ([0, 10, 20, 24], [False] * 3),
    ],
)
def test_gaps_are_where_points_are_missing(steps, gaps):
    assert gaps_of(np.array(steps, float)).tolist() == gaps
    curve = Curve(np.array(steps, float), np.ones(len(steps)), 0).data(has_gaps=True)
    assert curve["y"].count(None) == sum(gaps) and curve["x"] == sorted(curve["x"])


def test_long_curves_are_thinned_to_means():
    curve = Curve(np.arange(10_000.0), np.arange(10_000.0) * 2, 0).thinned()
    assert len(curve.steps) == 2000
    np.testing.assert_allclose(curve.values, 2 * curve.steps)
    assert curve.steps[0] == 2.0


def test_looks_tell_all_runs_apart(tmp_path):
    for is_points in (False, True):
        swatch = getattr(PAGES.get_template("parts.html").module, "swatch")  # noqa: B009
        swatches = {swatch(look, is_points) for look in range(200)}
        assert len(swatches) == 200
    runs = [make_evaluated(tmp_path / f"run_{i:02}", [s + 0.01 * i for s in SCORES]) for i in range(16)]
    text = read(compare(runs, out=tmp_path / "page.html"))
    entries = re.findall('(<i class="[^"]*" style="[^"]*"></i>)run_', panel(text, "Held-out score: pass@1"))
    assert len(entries) == 16 == len(set(entries))


def test_runs_are_compared_by_their_first_and_last_evaluations(tmp_path):
    runs = [make_evaluated(tmp_path / "a"), make_evaluated(tmp_path / "b", [0.2, 0.3, 0.4, 0.8])]
    text = read(compare(runs, out=tmp_path / "page.html"))
    scores = panel(text, "Held-out score: pass@1")
    assert "</i>a 0.125 → 0.562<" in scores and "</i>b 0.200 → 0.800<" in scores
    assert "Points, and the figures above: first and last evaluation." in scores
    assert "Bands:" not in text  # there are none
    assert "<th>pass@16</th>" in text and "pass@16" not in "".join(re.findall("<figcaption>.*?</figcaption>", text))


def test_an_evaluation_of_a_third_size_is_a_curve_too(tmp_path):
    path = make_evaluated(tmp_path / "a")
    more = {"step": 35, "eval/pass@1": 0.75, "eval/cons@8": 0.8, "time/eval": 1.0}
    write_lines(path / "metrics.jsonl", [*evaluated_rows(SCORES)[:-1], more, short_row(37, 0.5)])
    assert "pass@1, along the way, 8 samples 0.750<" in read(write_report(path))
    assert "</i>a 0.125 → –<" in read(compare([path, make_evaluated(tmp_path / "b")], out=tmp_path / "page.html"))


@pytest.mark.parametrize("evaluation", [5, {"final_problems": None, "final_samples": 16}])
def test_sizes_that_are_not_known_are_left_out(tmp_path, evaluation):
    text = panel(read(write_report(make_evaluated(tmp_path / "rl", eval=evaluation))), "Held-out score")
    assert "Points: first and last evaluation. Line: along the way." in text
