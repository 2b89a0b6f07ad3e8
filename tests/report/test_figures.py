import json
import re

import numpy as np
import pytest

from r1jax.report import compare, write_report
from r1jax.report.figures import Drawn, draw_panel
from r1jax.report.markup import PAGES
from r1jax.report.panels import Panel
from r1jax.report.plot import NUM_LOOKS, Curve
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
    assert "Smoothed over a tenth of the run; faint: as logged." in panel(text, "Reward")


def test_first_and_last_evaluations_are_points_apart_from_those_along_the_way(tmp_path):
    sizes = {"problems": 128, "samples": 4, "final_problems": 512, "final_samples": 16}
    text = read(write_report(make_evaluated(tmp_path / "rl", eval=sizes)))
    scores = panel(text, "Held-out score")
    assert (
        "</i>pass@1, along the way 0.250 → 0.625<" in scores and "</i>pass@1, first and last 0.125 → 0.562<" in scores
    )
    assert 'class="points dash0" style="--c:var(--c0)"' in scores and 'class="dash0" style="--c:var(--c0)"' in scores
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


def test_stacked_outliers_are_cut_off_and_said(tmp_path):
    rows = [{"step": step, "time/generate": 60.0 if step == 1 else 1.0 + 0.1 * step} for step in range(1, 9)]
    write_lines(tmp_path / "metrics.jsonl", [row | {"time/step": row["time/generate"]} for row in rows])
    assert "Cut off: 60 at update 1." in panel(read(write_report(tmp_path)), "Where the time goes")


def test_looks_tell_all_runs_apart(tmp_path):
    for is_points in (False, True):
        swatch = PAGES.get_template("parts.html").module.swatch
        swatches = [swatch(look, is_points) for look in range(NUM_LOOKS)]
        assert len(set(swatches)) == len(swatches) == NUM_LOOKS >= 16
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
