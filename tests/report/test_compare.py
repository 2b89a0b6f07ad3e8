import re

import pytest

from r1jax.report import compare
from r1jax.report.__main__ import main
from tests.report.synthetic import make_pretrain_stage, make_rl_stage, make_workdir
from tests.report.test_page import read


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_workdir(folder / "a" / "zero", updates=20)
    make_rl_stage(folder / "b" / "zero", seed=1, updates=20, learning_rate=1e-4)
    return read(compare([folder / "a" / "zero", folder / "b" / "zero"], out=folder / "page.html"))


def test_runs_have_the_shortest_names_that_differ(page):
    assert "</i>a</span>" in page and "</i>b</span>" in page


def test_stages_of_one_kind_go_together_and_rl_comes_first(page):
    assert page.index("<h2>rl / zero</h2>") < page.index("<h2>pretrain</h2>")
    assert "<figcaption>Held-out score: pass@1<" in page and "Bands: 95 %" in page


def test_scores_and_settings_that_differ(page):
    assert page.count(">0.231 → 0.872 <span") == 2
    assert "0.872 (0.872 to 0.872)" in page  # mean over the runs
    head, *rows = re.findall("<tr>.*?</tr>", page.partition("<h2>rl / zero</h2>")[2])[:3]
    assert re.findall("<th[^>]*>([^<]*)</th>", head) == [
        *("run", "optimizer.learning_rate", "pass@1", "cons@16", "reward", "rewards/accuracy/mean"),
        *("rewards/format/mean", "mean length", "updates", "wall time", "seed", "status"),
    ]
    assert [re.findall('data-value="([^"]*)"', row)[:2] for row in rows] == [["0.0003", "0.872"], ["0.0001", "0.872"]]


def test_same_path_twice_is_numbered(tmp_path):
    stage = make_rl_stage(tmp_path / "rl", updates=2)
    text = read(compare([stage, stage], out=tmp_path / "page.html"))
    assert "rl (1)" in text and "rl (2)" in text and "The settings are equal." in text


def test_runs_may_have_nothing_in_common(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.json").write_text('{"stage": "rl"}')
    runs = [make_pretrain_stage(tmp_path / "pretrain"), make_rl_stage(tmp_path / "rl", updates=2), tmp_path / "new"]
    assert "no update recorded yet" in read(compare(runs, out=tmp_path / "page.html"))


def test_one_run_is_no_comparison(tmp_path):
    with pytest.raises(ValueError, match="two work directories or more, got 1"):
        compare([tmp_path])


def test_command_line_compares_several(tmp_path, capsys):
    runs = [str(make_rl_stage(tmp_path / name, updates=2)) for name in ("a", "b")]
    assert main([*runs, "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"
