import json

import pytest

from r1jax.evals.estimates import Estimate
from r1jax.evals.finished import Finished, MissingFigureError
from tests.evals.finished_stages import evaluated, make_stage, with_interval

ROWS = [{"step": step, "rewards/language/mean": 0.1 * step, "note": None} for step in range(1, 11)]


def test_figures_are_read_by_name(tmp_path):
    after = with_interval("pass@1", 0.75, 0.125) | {"mean_length": 40.5}
    rl = Finished(
        make_stage(tmp_path / "rl", kind="rl", summary={"after": after, "wall_seconds": 9}, rows=ROWS, seed=3)
    )
    assert (rl.name, rl.kind, rl.seed) == ("rl", "rl", 3)
    assert rl.summary("wall_seconds") == 9.0 and rl.estimate("after", "mean_length") == Estimate(40.5)
    assert rl.score("pass@1") == Estimate(0.75, 0.625, 0.875)
    assert rl.score("rewards/language/mean", phases=2).value == pytest.approx(0.95)
    steps, values = rl.series("rewards/language/mean", least=10)
    assert steps.tolist() == list(range(1, 11)) and values[0] == 0.1
    assert not rl.has_series("note")
    evaluation = Finished(evaluated(tmp_path / "eval", pair_sum={"pass@1": (0.5, 0.25)}))
    assert evaluation.score("pass@1", task="pair_sum") == Estimate(0.5, 0.25, 0.75)


def test_tokens_of_training(tmp_path):
    rows = [{"step": 1, "num_tokens": 70}, {"step": 2, "num_tokens": 150}, {"step": 2, "eval/pass@1": 0.5}]
    assert Finished(make_stage(tmp_path / "rl", kind="rl", summary={}, rows=rows)).training_tokens() == 150.0
    rows = [
        {"step": 20, "num_loss_tokens": 100},
        {"step": 40, "num_loss_tokens": 110},
        {"step": 45, "num_loss_tokens": 90},
    ]
    supervised = Finished(make_stage(tmp_path / "sft", kind="supervised", summary={}, rows=rows))
    assert supervised.training_tokens() == 20 * 100 + 20 * 110 + 5 * 90


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (
            lambda stage: stage.summary("after", "cons@16"),
            r"stage rl .*summary.json has no after.cons@16; there are pass@1",
        ),
        (lambda stage: stage.summary("after"), "after=.* is no number"),
        (lambda stage: stage.series("kl"), r"stage rl .*metrics.jsonl has 'kl' 0 times, at least 1"),
        (lambda stage: stage.series("rewards/language/mean", least=11), "10 times, at least 11"),
        (lambda stage: stage.score("rewards/safety/mean"), r"neither summary.json \(after\) nor metrics.jsonl has"),
        (lambda stage: stage.training_tokens(), "'num_tokens' 0 times"),
    ],
)
def test_what_is_missing_is_said_with_stage_and_key(tmp_path, ask, words):
    stage = Finished(make_stage(tmp_path / "rl", kind="rl", summary={"after": {"pass@1": 0.5}}, rows=ROWS))
    with pytest.raises(MissingFigureError, match=words):
        ask(stage)


def test_an_evaluation_needs_a_task(tmp_path):
    stage = Finished(evaluated(tmp_path / "eval", pair_sum={"pass@1": (0.5, 0.25)}))
    with pytest.raises(MissingFigureError, match="pass@1 of which task"):
        stage.score("pass@1")
    with pytest.raises(MissingFigureError, match=r"no tasks.safety; there are pair_sum"):
        stage.score("pass@1", task="safety")


def test_an_unfinished_or_damaged_stage_is_an_error(tmp_path):
    path = tmp_path / "rl"
    with pytest.raises(MissingFigureError, match="rl is not the work directory of a finished stage: it has no DONE"):
        Finished(path)
    make_stage(path, kind="rl", summary={})
    (path / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    with pytest.raises(
        MissingFigureError, match=r"stage rl .*metrics.jsonl: 1 unreadable line left out .first: line 2"
    ):
        Finished(path).series("kl")
    (path / "summary.json").write_text(json.dumps([1]))
    with pytest.raises(MissingFigureError, match="summary.json is empty or damaged"):
        Finished(path)
    (path / "summary.json").unlink()
    with pytest.raises(MissingFigureError, match="summary.json is not there"):
        Finished(path)


def test_a_curve_for_each_kind_of_evaluation(tmp_path):
    """What was measured on more samples at the ends is no point of the curve along the way."""
    rows = [with_interval("eval/pass@1", 0.2, 0.1) | {"step": 0, "eval/cons@16": 0.3}]
    rows += [{"step": step, "eval/pass@1": 0.5, "eval/cons@4": 0.5, "time/eval": 1.0} for step in (10, 20)]
    rows += [with_interval("eval/pass@1", 0.6, 0.1) | {"step": 30, "eval/cons@16": 0.7}]
    stage = Finished(make_stage(tmp_path / "rl", kind="rl", summary={}, rows=rows))
    along, ends = stage.curves("seed 0", "eval/pass@1")
    assert along == {
        "label": "seed 0, along the way, 4 samples",
        "run": "seed 0",
        "steps": [10, 20],
        "values": [0.5, 0.5],
    }
    assert ends["label"] == "seed 0, first and last, 16 samples" and ends["is_points"] and ends["steps"] == [0, 30]
    assert ends["low"] == pytest.approx([0.1, 0.5])
    assert [curve["label"] for curve in stage.curves("seed 0", "eval/cons@4")] == ["seed 0"]
    (votes,) = stage.curves("seed 0", "eval/cons@16")
    assert votes["label"] == "seed 0" and votes["is_points"]


def test_the_base_is_the_start_of_the_chain(tmp_path):
    base = make_stage(tmp_path / "base", kind="supervised", summary={})
    rl = make_stage(tmp_path / "rl", kind="rl", summary={}, init={"kind": "stage", "path": base})
    path = make_stage(tmp_path / "eval", kind="evaluate", summary={}, init={"kind": "stage", "path": "{here}/../rl"})
    assert Finished(path).base() == Finished(rl).base() == Finished(base).base() == base
