import json

import pytest

from r1jax.report import write_report
from tests.report.test_page import read

CURVE = {
    "label": "seed 0",
    "steps": [1, 2, 4],
    "values": [0.5, 0.6, 0.7],
    "low": [0.4, 0.5, 0.6],
    "high": [0.6, 0.7, 0.8],
}
VOTES = {
    "claim": "majority voting adds",
    "paper": "77.9 → 86.7",
    "ours": "cons@4 0.7 [0.6, 0.8]",
    "held": True,
    "rule": "cons@4 is higher",
    "figures": [{"title": "Majority vote", "unit": "share", "across": "samples in the vote", "curves": [CURVE]}],
    "table": None,
}
TABLE = {
    "claim": "each stage's table",
    "paper": "Table 3",
    "ours": "4 of 5 orderings hold",
    "held": False,
    "rule": "R1 > Dev3",
    "figures": [],
    "table": {"head": ["stage", "safety"], "rows": [["Zero", "0.5 [0.4, 0.6]"], ["R1", "0.9"]]},
}


def section(tmp_path, text, **config):
    folder = tmp_path / "claims"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"stage": "claims", **config}))
    (folder / "claims.json").write_text(text)
    (folder / "DONE").touch()
    return read(write_report(tmp_path))


def test_every_claim_has_a_line_with_its_mark_and_below_it_what_it_rests_on(tmp_path):
    open_claim = VOTES | {"held": None, "claim": "words rise", "figures": []}
    text = section(tmp_path, json.dumps([VOTES, TABLE, open_claim]), note="a made world")
    assert "<h2>The paper's claims</h2><p>a made world</p>" in text
    assert '<td>77.9 → 86.7</td><td>cons@4 0.7 [0.6, 0.8]</td><td><span class="good">yes</span></td>' in text
    assert '<td>4 of 5 orderings hold</td><td><span class="bad">no</span></td>' in text
    assert text.count('<span class="quiet">open</span>') == 1
    assert "<td>Zero</td><td>0.5 [0.4, 0.6]</td>" in text and "<th>safety</th>" in text
    assert "Held if: cons@4 is higher." in text
    assert "<figcaption>Majority vote<" in text
    assert "0.500 → 0.700" in text


def test_a_claim_says_how_its_figures_were_computed(tmp_path):
    """And a curve of many samples is drawn as points, in the colour of its run."""
    curves = [CURVE | {"run": "seed 0"}, CURVE | {"run": "seed 0", "label": "seed 0, full", "is_points": True}]
    row = VOTES | {
        "protocol": ["1 seed (0)", "held-out: <64> problems"],
        "figures": [{"title": "T", "unit": "", "across": "update", "curves": curves}],
    }
    text = section(tmp_path, json.dumps([row]))
    assert '[0.6, 0.8]<small class="protocol">1 seed (0)<br>held-out: &lt;64&gt; problems</small></td>' in text
    assert '<i class="points dash0" style="--h:255.0"></i>seed 0, full 0.500 → 0.700<' in text


def test_without_claims_there_is_no_section(tmp_path):
    (tmp_path / "rl").mkdir()
    (tmp_path / "rl" / "config.json").write_text('{"stage": "rl"}')
    (tmp_path / "rl" / "DONE").touch()
    text = read(write_report(tmp_path))
    assert "The paper's claims" not in text and 'class="claims"' not in text and "<details open>" not in text


@pytest.mark.parametrize("text", ['{"claim": 1}', "[", ""])
def test_a_damaged_file_is_a_note(tmp_path, text):
    assert '<p class="note">claims.json is empty or damaged and was left out.</p>' in section(tmp_path, text)


def test_hostile_claims_are_shown_or_left_out(tmp_path):
    bad = "</td><script>x</script>"
    figure = {"curves": [CURVE | {"label": bad}], "unit": "\ud800", "title": f"\ud800{bad}", "across": bad}
    table = {"head": [bad], "rows": [[bad], [7]]}
    shown = dict.fromkeys(VOTES, bad) | {"figures": [figure], "table": table, "protocol": [bad, 5]}
    broken = [CURVE | {"values": [0.5, "x", 0.7]}, CURVE | {"steps": [1]}, {"label": bad}, 5, CURVE | {"low": [1, 2]}]
    rows = [
        shown,
        *(shown | {"figures": [figure | {"curves": [curve]}]} for curve in broken),
        shown | {"figures": 5},
        shown | {"table": [1]},
        shown | {"table": {"head": 5, "rows": [[bad], 7]}},
        {"claim": bad},
        7,
    ]
    text = section(tmp_path, json.dumps(rows), note=[bad])
    assert "<script" not in text and "&lt;script&gt;" in text
    assert text.count('<div class="plot">') == 1 and text.count("<details open>") == 1
    assert '<p class="note">claims.json: 10 damaged, left out.</p>' in text
