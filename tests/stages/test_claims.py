"""The claims stage: rows by rule, lineage, and errors that name claim, stage and key."""

import json

import pytest

from r1jax.run import main as run_main
from r1jax.specs.reader import SpecError, read
from r1jax.specs.stages import ClaimsSpec
from r1jax.stages import claims
from r1jax.workdir.directory import WorkdirError
from tests.evals.finished_stages import evaluated


def config_of(*rows) -> ClaimsSpec:
    return read(ClaimsSpec, {"stage": "claims", "seed": 0, "claims": list(rows)})


def vote_claim(path, **changes):
    claim = {"claim": "majority voting adds", "paper": "AIME: 77.9 → 86.7", "kind": "votes", "path": str(path)}
    return claim | {"task": "pair_sum", "sizes": [1, 4]} | changes


def voted(path, gain):
    figures = {"cons@1": (0.5, 0.1), "cons@4": (0.5 + gain, 0.1), "cons@4_gain": (gain, 0.05)}
    return evaluated(path, pair_sum=figures)


def test_rows_say_what_held_and_by_which_rule(tmp_path):
    voted(tmp_path / "up", 0.2), voted(tmp_path / "level", 0.0)
    workdir = tmp_path / "claims"
    summary = claims.main(config_of(vote_claim(tmp_path / "up"), vote_claim(tmp_path / "level")), workdir)
    rows = json.loads((workdir / "claims.json").read_text())
    assert [row["held"] for row in rows] == [True, False]
    assert set(rows[0]) == {"claim", "paper", "kind", "ours", "values", "held", "rule", "protocol", "figures", "table"}
    assert rows[0]["paper"] == "AIME: 77.9 → 86.7" and "by the 95 % interval" in rows[0]["rule"]
    assert {"claims": 2, "held": 1, "not_held": 1, "open": 0}.items() <= summary.items()
    lineage = json.loads((workdir / "lineage.json").read_text())["inputs"]
    assert set(lineage) == {"claims[0].path", "claims[1].path"} and lineage["claims[0].path"]["path"] == "{here}/../up"


def test_a_missing_figure_names_claim_stage_and_key_and_leaves_no_rows(tmp_path):
    voted(tmp_path / "up", 0.2)
    config = config_of(vote_claim(tmp_path / "up"), vote_claim(tmp_path / "up", sizes=[1, 2]))
    with pytest.raises(ValueError, match=r"claims\[1\] \(votes\): stage up .*no tasks.pair_sum.cons@2"):
        claims.main(config, tmp_path / "claims")
    assert not (tmp_path / "claims" / "claims.json").exists() and not (tmp_path / "claims" / "DONE").exists()
    with pytest.raises(ValueError, match=r"claims\[0\] \(votes\): .*gone is not the work directory of a finished"):
        claims.main(config_of(vote_claim(tmp_path / "gone")), tmp_path / "other")


def test_an_input_made_anew_is_an_error(tmp_path):
    voted(tmp_path / "up", 0.2)
    config = config_of(vote_claim(tmp_path / "up"))
    claims.main(config, tmp_path / "claims")
    (tmp_path / "up" / "config.json").write_text('{"stage": "evaluate", "seed": 1}')
    with pytest.raises(WorkdirError, match=r"claims\[0\].path=.* was made anew"):
        claims.main(config, tmp_path / "claims")


TABLE = {
    "claim": "each stage's table",
    "paper": "Tables 3, 8",
    "kind": "stage_table",
    "paths": {"Zero": "a", "R1": "b"},
}


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (vote_claim("a", kind="vote"), r"claims\[0\].kind='vote' must be one of 'teaches', 'lengthens'"),
        (vote_claim("a", held=True), r"there is no key 'claims\[0\].held'"),
        (vote_claim("a", claim=" "), r"claims\[0\].claim=' ' must be a text"),
        ({k: v for k, v in vote_claim("a").items() if k != "paper"}, r"the key 'claims\[0\].paper' is missing"),
        ({k: v for k, v in vote_claim("a").items() if k != "path"}, r"the key 'claims\[0\].path' is missing"),
        (vote_claim(""), r"claims\[0\].path='' must name a file or folder"),
        (TABLE | {"kind": "teaches", "paths": []}, r"claims\[0\].paths=\[\] must name work directories"),
        (TABLE | {"kind": "lengthens", "paths": ["a"], "phases": 0}, r"claims\[0\].phases=0 must be at least 1"),
        (TABLE, r"claims\[0\].orderings\[0\]: there is no 'Dev3'; there are Zero, R1"),
    ],
)
def test_bad_input_is_named_before_the_stages_that_it_is_about_have_run(claim, words):
    with pytest.raises(SpecError, match=words):
        config_of(claim)
    with pytest.raises(SpecError, match="needs at least one"):
        config_of()


def test_paths_of_a_run_are_its_stages_placeholders(tmp_path, capsys):
    """Lists and dicts of paths too: an unknown one is an error before anything runs."""
    voted(tmp_path / "up", 0.2)
    config = tmp_path / "config.py"
    text = f"""
from ml_collections import ConfigDict
def get_config():
    table = {TABLE!r} | {{"orderings": [["votes", "A", ">=", "A"]], "paths": {{"A": "{{workdir}}/../up"}}}}
    table["columns"] = [{{"name": "votes", "task": "pair_sum", "metric": "cons@4"}}]
    claims = {{"stage": "claims", "seed": 0, "claims": [table], "note": ""}}
    return ConfigDict({{"seed": 0, "stages": ConfigDict({{"claims": claims}}, sort_keys=False)}}).lock()
"""
    config.write_text(text)
    assert run_main([f"--config={config}", f"--workdir={tmp_path / 'run'}"]) == 0
    written = json.loads((tmp_path / "run" / "claims" / "config.json").read_text())
    assert written["claims"][0]["paths"] == {"A": "{here}/../../up"}
    config.write_text(text.replace("{workdir}/../up", "{zer0}"))
    assert run_main([f"--config={config}", f"--workdir={tmp_path / 'other'}"]) == 2
    assert "stages.claims.claims[0].paths.A='{zer0}': unknown placeholder" in capsys.readouterr().err
