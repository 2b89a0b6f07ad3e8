"""Each kind of claim on figures written by hand: one that holds, one that must not, and what is missing."""

import json
import subprocess
import sys
import typing

import pytest

from r1jax.evals.claim_kinds import VERDICT_OF, judge_claim
from r1jax.evals.finished import MissingFigureError
from r1jax.specs.claims import AnyClaim
from r1jax.specs.reader import SpecError, read
from tests.evals.finished_stages import evaluated, make_stage, with_interval

LANGUAGE = "rewards/language/mean"


def judge(kind, **fields):
    """The verdict on a claim of a kind."""
    return judge_claim(read(AnyClaim, {"kind": kind, "claim": "c", "paper": "p"} | fields))


def make_zero(path, *, seed=0, before=0.2, after=0.9, half=0.02, rows=(), **config):
    ends = {
        when: with_interval("pass@1", value, half) | with_interval("cons@16", min(1.0, value + 0.05), half)
        for when, value in (("before", before), ("after", after))
    }
    return make_stage(path, kind="rl", summary=ends | {"wall_seconds": 60.0}, rows=rows, seed=seed, **config)


def curves(steps, **metrics):
    """Rows of metrics.jsonl from lists of values; "__" stands for "/"."""
    names = {name: name.replace("__", "/") for name in metrics}
    return [{"step": 2 * i + 2} | {names[name]: values[i] for name, values in metrics.items()} for i in range(steps)]


def test_rl_teaches_where_every_seed_s_interval_rises(tmp_path):
    rows = [{"step": step, "eval/pass@1": 0.1 * step} for step in (0, 4, 8)]
    paths = [
        make_zero(tmp_path / f"zero_{seed}", seed=seed, after=after, rows=rows)
        for seed, after in enumerate((0.9, 0.92, 0.94))
    ]
    found = judge("teaches", paths=paths)
    assert found.held is True
    assert "pass@1 0.2 [0.2, 0.2] → 0.92 [0.87, 0.97], gain 0.72 [0.67, 0.77]" in found.ours
    assert found.ours.endswith("(3 seeds: 0, 1, 2)")
    assert found.values["pass@1"]["after"][1] == {"value": 0.92, "low": pytest.approx(0.9), "high": pytest.approx(0.94)}
    (drawn,) = found.figures
    assert [curve["label"] for curve in drawn["curves"]] == ["seed 0", "seed 1", "seed 2"]
    assert drawn["curves"][0]["steps"] == [0.0, 4.0, 8.0]


def test_rl_does_not_teach_where_one_seed_s_intervals_overlap(tmp_path):
    paths = [make_zero(tmp_path / str(seed), seed=seed) for seed in range(2)]
    paths.append(make_zero(tmp_path / "2", seed=2, before=0.2, after=0.23))
    assert judge("teaches", paths=paths).held is False and judge("teaches", paths=paths[:2]).held is True


def test_a_score_without_an_interval_or_a_stage_without_it_is_named(tmp_path):
    path = make_stage(tmp_path / "zero", kind="rl", summary={"before": {"pass@1": 0.2}, "after": {"pass@1": 0.9}})
    with pytest.raises(MissingFigureError, match=r"stage zero .*after.pass@1 has no interval"):
        judge("teaches", paths=[path], metrics=["pass@1"])
    with pytest.raises(MissingFigureError, match=r"stage zero .*no before.cons@16"):
        judge("teaches", paths=[path], metrics=["cons@16"])


def longer(tmp_path, ends):
    """RL stages of six phases whose length goes from 10, and reflection words from 0.1, to ``ends``."""
    paths = []
    for seed, (length, words) in enumerate(ends):
        rows = curves(
            6,
            completions__mean_length=[10, 10, 12, 20, length, length],
            reflection__per_completion=[0.1, 0.1, 0.2, 0.2, words, words],
        )
        paths.append(make_zero(tmp_path / f"zero_{seed}", seed=seed, rows=rows))
    return paths


def test_responses_lengthen_and_reflection_words_rise(tmp_path):
    paths = longer(tmp_path, [(30, 0.6), (32, 0.7), (34, 0.5)])
    found = judge("lengthens", paths=paths, phases=2)
    assert found.held is True
    assert found.values["completions/mean_length"]["ratio"] == pytest.approx(3.2)
    assert found.values["reflection/per_completion"]["ratio"] == pytest.approx(6.0)
    assert "(× 3.20)" in found.ours and len(found.figures) == 2
    assert judge("lengthens", paths=paths[:2], phases=2).held is None  # two seeds give no interval
    with pytest.raises(MissingFigureError, match="6 times, at least 8"):
        judge("lengthens", paths=paths, phases=4)


def test_words_that_rise_in_one_seed_alone_do_not_show_it(tmp_path):
    found = judge("lengthens", paths=longer(tmp_path, [(30, 0.9), (32, 0.1), (34, 0.1)]), phases=2)
    assert found.held is False
    assert found.values["completions/mean_length"]["change"]["low"] > 0


def test_words_that_were_not_there_at_first_have_no_ratio(tmp_path):
    rows = curves(6, completions__mean_length=[10] * 6, reflection__per_completion=[0, 0, 0, 0, 1, 1])
    found = judge("lengthens", paths=[make_zero(tmp_path / "zero", rows=rows)], phases=2)
    assert found.values["reflection/per_completion"]["ratio"] is None


def spoken(tmp_path, name, consistencies, scores):
    return [
        make_zero(
            tmp_path / f"{name}_{seed}",
            seed=seed,
            after=score,
            rows=curves(4, rewards__language__mean=[0.5, 0.5, c, c]),
        )
        for seed, (c, score) in enumerate(zip(consistencies, scores, strict=True))
    ]


def test_the_language_reward_repairs_at_a_small_cost(tmp_path):
    plain = spoken(tmp_path, "without", [0.7, 0.72, 0.68], [0.9, 0.9, 0.9])
    repaired = spoken(tmp_path, "with", [0.99, 1.0, 0.98], [0.89, 0.88, 0.9])
    found = judge("language_repaired", with_paths=repaired, without_paths=plain, phases=2)
    assert found.held is True
    assert found.values["consistency"]["difference"]["value"] == pytest.approx(0.29)
    assert found.values["score"]["difference"]["value"] == pytest.approx(-0.01)
    assert [curve["label"] for curve in found.figures[0]["curves"]][:2] == ["with, seed 0", "with, seed 1"]
    assert (
        judge("language_repaired", with_paths=repaired, without_paths=plain, phases=2, max_cost=0.001).held is False
    )  # not at that cost
    assert judge("language_repaired", with_paths=plain, without_paths=repaired, phases=2).held is False
    assert (
        judge("language_repaired", with_paths=repaired[:1], without_paths=plain[:1], phases=2).held is None
    )  # one seed, training alone: no interval


def test_the_language_reward_by_evaluate_stages(tmp_path):
    figures = {"pass@1": (0.8, 0.05), LANGUAGE: (0.6, 0.03)}
    plain = evaluated(tmp_path / "without", pair_sum=figures)
    repaired = evaluated(tmp_path / "with", pair_sum=figures | {LANGUAGE: (0.66, 0.04)})
    found = judge("language_repaired", with_paths=[repaired], without_paths=[plain], task="pair_sum")
    assert found.held is True and found.figures == ()  # 0.06 with 0.05 on either side
    assert found.values["consistency"]["difference"]["low"] == pytest.approx(0.01)


STAGES = {
    "Zero": (0.93, 0.2, 0.5),
    "Dev1": (0.6, 0.5, 0.5),
    "Dev2": (0.9, 0.5, 0.5),
    "Dev3": (0.9, 0.6, 0.6),
    "R1": (0.58, 0.9, 0.95),
}


def make_table(tmp_path, **changes):
    paths = {}
    for name, (reasoning, helpfulness, safety) in (STAGES | changes).items():
        language = 0.7 if name == "Zero" else 0.9
        pairs = {"pass@1": (reasoning, 0.03), LANGUAGE: (language, 0.01), "format": (1.0, 0.0)}
        general = {"rewards/helpfulness/mean": (helpfulness, 0.04)}
        paths[name] = evaluated(
            tmp_path / name, pair_sum=pairs, helpful=general, safety={"rewards/safety/mean": (safety, 0.04)}
        )
    return paths


def test_the_stage_table_holds_where_all_orderings_do(tmp_path):
    found = judge("stage_table", paths=make_table(tmp_path))
    assert (
        found.held is True and found.ours == "6 of 6 orderings hold"
    )  # R1's reasoning 0.02 below Dev1's, within 0.042
    assert found.table["head"] == ["stage", "reasoning", "language consistency", "well-formed", "helpfulness", "safety"]
    assert [row[0] for row in found.table["rows"]] == ["Zero", "Dev1", "Dev2", "Dev3", "R1"]
    assert found.table["rows"][4][4] == "0.9 [0.86, 0.94]"


def test_the_stage_table_names_the_orderings_that_do_not_hold(tmp_path):
    paths = make_table(tmp_path, R1=(0.5, 0.64, 0.95))
    found = judge("stage_table", paths=paths)
    assert found.held is False
    assert found.ours == "4 of 6 orderings hold; not: helpfulness: R1 > Dev3, reasoning: R1 >= Dev1"
    assert judge("stage_table", paths=paths, orderings=[["helpfulness", "R1", ">=", "Dev3"]]).held is True


def test_a_stage_table_that_does_not_fit_together_is_an_error(tmp_path):
    paths = make_table(tmp_path)
    for ordering, words in (
        (["helpfulness", "R2", ">", "Dev3"], "there is no 'R2'; there are Zero, Dev1"),
        (["help", "R1", ">", "Dev3"], "there is no 'help'; there are reasoning"),
        (["helpfulness", "R1", "<", "Dev3"], "must be .column, stage, '>' or '>=', stage."),
    ):
        with pytest.raises(ValueError, match=words):
            judge("stage_table", paths=paths, orderings=[ordering])
    with pytest.raises(ValueError, match=r"the key .columns\[0\].task. is missing"):
        judge("stage_table", paths=paths, columns=[{"name": "reasoning"}])
    summary = {"tasks": {"pair_sum": {"pass@1": 0.5}}}
    bare = {name: make_stage(tmp_path / f"bare {name}", kind="evaluate", summary=summary) for name in "AB"}
    column = {"name": "reasoning", "task": "pair_sum", "metric": "pass@1"}
    assert judge("stage_table", paths=bare, columns=[column], orderings=[]).table["rows"] == [
        ["A", "0.5"],
        ["B", "0.5"],
    ]
    with pytest.raises(MissingFigureError, match="stages A and B: reasoning has no interval"):
        judge("stage_table", paths=bare, columns=[column], orderings=[["reasoning", "A", ">", "B"]])


def students(tmp_path, distilled, by_rl):
    rows = [{"step": 10, "num_loss_tokens": 1e5}]
    sft = make_stage(tmp_path / "student", kind="supervised", summary={"wall_seconds": 90.0}, rows=rows)
    rl = make_zero(tmp_path / "student_rl", rows=[{"step": 2, "num_tokens": 2e6}])
    scores = [evaluated(tmp_path / f"eval {v}", pair_sum={"pass@1": (v, 0.03)}) for v in (distilled, by_rl)]
    return [[scores[0]], [scores[1]]], {"distilled_trained_paths": [sft], "rl_trained_paths": [rl]}


def test_distilling_beats_rl_with_the_compute_stated(tmp_path):
    paths, trained = students(tmp_path, 0.72, 0.47)
    found = judge("distils", distilled_paths=paths[0], rl_paths=paths[1], task="pair_sum", **trained)
    assert found.held is True
    assert found.values["compute"]["distilled"] == {
        "stages": ["student"],
        "training_tokens": 1e6,
        "wall_seconds": 90.0,
    }
    assert found.values["compute"]["RL"]["training_tokens"] == 2e6
    assert "(training: distilled: 1.00M tokens, 1.5 min; RL: 2.00M tokens, 1.0 min)" in found.ours


def test_distilling_does_not_beat_rl_within_the_interval(tmp_path):
    paths, _ = students(tmp_path, 0.50, 0.47)
    assert judge("distils", distilled_paths=paths[0], rl_paths=paths[1], task="pair_sum").held is False
    with pytest.raises(ValueError, match="distilled_paths and rl_paths are compared in pairs, but they are 1 and 2"):
        judge("distils", distilled_paths=paths[0], rl_paths=paths[1] * 2)


def exposed(tmp_path, *, true_end):
    jitter = [0.01, -0.01, 0.0]
    levels = {"rewards__helpful_model__mean": (0.6, 0.95), "rewards__helpfulness__mean": (0.7, true_end)}
    levels["rewards__accuracy__mean"] = (0.8, 0.8)
    rows = {
        which: curves(5, **{name: [0.5, 0.5, *(ends[place] + j for j in jitter)] for name, ends in levels.items()})
        for place, which in enumerate(("short", "long"))
    }
    paths = {f"{which}_path": make_zero(tmp_path / which, rows=rows[which]) for which in rows}
    return judge("exposure_hacks", **paths, model="rewards/helpful_model/mean", phases=3)


def test_long_exposure_hacks_where_the_model_is_pleased_and_the_truth_falls(tmp_path):
    found = exposed(tmp_path, true_end=0.5)
    assert found.held is True
    assert found.values["true"]["change"]["value"] == pytest.approx(-0.2)
    assert [curve["label"] for curve in found.figures[1]["curves"]] == ["long", "short"]


@pytest.mark.parametrize("true_end", [0.69, 0.9])
def test_long_exposure_that_harms_nothing_does_not_show_it(tmp_path, true_end):
    assert exposed(tmp_path, true_end=true_end).held is False


def test_long_exposure_by_evaluations(tmp_path):
    """What held-out problems say decides, whatever the last phases said."""
    names = ("rewards/helpful_model/mean", "rewards/helpfulness/mean", "rewards/accuracy/mean")
    rows = [{"step": step} | dict.fromkeys(names, 0.5) for step in (2, 4, 6, 8)]
    rows_of = {"short": [{"step": 2}, {"step": 4}, *rows[2:]], "long": rows}  # the model joins at update 4, or at once
    paths = {f"{which}_path": make_zero(tmp_path / which, rows=rows_of[which]) for which in ("short", "long")}
    for which, pleased, true, right in (("short", 0.6, 0.7, 0.9), ("long", 0.9, 0.69, 0.7)):
        general = {names[0]: (pleased, 0.04), names[1]: (true, 0.04)}
        path = evaluated(tmp_path / f"eval_{which}", helpful=general, pair_sum={"pass@1": (right, 0.04)})
        paths[f"{which}_evaluated_path"] = path
    found = judge("exposure_hacks", **paths, model=names[0])
    assert found.held is True and found.rule.startswith("on held-out problems")  # reasoning falls, the truth does not
    assert found.values["updates"] == {"long": 8, "short": 4}
    assert "reasoning 0.9 [0.86, 0.94] → 0.7 [0.66, 0.74], change -0.2" in found.ours
    with pytest.raises(MissingFigureError, match="no tasks.helpful.rewards/other/mean"):
        judge("exposure_hacks", **paths, model="rewards/other/mean")
    with pytest.raises(SpecError, match="needs both, or none"):
        judge("exposure_hacks", long_path="a", short_path="b", model="m", long_evaluated_path="a")
    with pytest.raises(SpecError, match="phases=2"):
        judge("exposure_hacks", **paths, model=names[0], phases=2)


def voted(path, gain):
    figures = {"cons@1": (0.7, 0.05), "cons@4": (0.7 + gain / 2, 0.05), "cons@16": (0.7 + gain, 0.05)}
    return evaluated(path, pair_sum=figures | {"cons@16_gain": (gain, 0.02)})


def test_votes_add_or_do_not(tmp_path):
    found = judge("votes", path=voted(tmp_path / "up", 0.04), task="pair_sum", sizes=[16, 1, 4])
    assert found.held is True  # 0.04 with 0.02 on either side, within problems
    (curve,) = found.figures[0]["curves"]
    assert curve["steps"] == [1, 4, 16] and curve["low"] == pytest.approx([0.65, 0.67, 0.69])
    assert judge("votes", path=voted(tmp_path / "level", 0.01), task="pair_sum", sizes=[1, 4, 16]).held is False
    with pytest.raises(MissingFigureError, match=r"no tasks.pair_sum.cons@2"):
        judge("votes", path=str(tmp_path / "up"), task="pair_sum", sizes=[1, 2])


def test_every_verdict_is_json(tmp_path):
    found = judge("votes", path=voted(tmp_path / "up", 0.04), task="pair_sum", sizes=[1, 16])
    assert json.loads(json.dumps([found.values, found.figures], allow_nan=False))


def test_every_claim_that_can_be_configured_is_decided():
    assert set(VERDICT_OF) == set(typing.get_args(AnyClaim))


EVAL = {"temperature": 0.6, "top_p": 0.95, "problems": 64, "samples": 4, "final_problems": 256, "final_samples": 16}


def test_a_verdict_says_how_its_figures_were_computed(tmp_path):
    base = make_stage(tmp_path / "base", kind="supervised", summary={})
    rows = [{"step": step, "eval/pass@1": 0.1, "eval/cons@4": 0.2, "time/eval": 1.0} for step in (4, 8)]
    config = {"eval": EVAL, "init": {"kind": "stage", "path": base}}
    paths = [make_zero(tmp_path / f"zero_{seed}", seed=seed, rows=rows, **config) for seed in range(2)]
    assert judge("teaches", paths=paths).protocol == (
        "2 seeds (0, 1); all 2 runs start from one base",
        "held-out, first and last: 256 problems, 16 samples of each, temperature 0.6, top-p 0.95",
        "held-out, along the way: 64 problems, 4 samples of each, temperature 0.6, top-p 0.95",
    )
    alone = make_zero(tmp_path / "alone", seed=1, eval=EVAL | {"temperature": 1.0, "top_p": None})
    runs, first, second, *_ = judge("teaches", paths=[paths[0], alone], metrics=["pass@1"]).protocol
    assert runs == "2 seeds (0, 1); 2 runs of 2 bases"
    assert first.startswith("zero_0: held-out, first and last: 256")
    assert second.startswith("alone: ") and second.endswith("temperature 1.0, all tokens")
    bare = make_zero(tmp_path / "bare", eval={"final_problems": None, "temperature": 0.6})
    assert (
        "default number of problems, ? samples of each, temperature 0.6" in judge("teaches", paths=[bare]).protocol[1]
    )


def test_a_figure_of_training_is_said_to_be_one(tmp_path):
    sizes = {"questions_per_phase": 16, "group_size": 8, "temperature": 1.0, "eval": EVAL}
    rows = curves(4, rewards__language__mean=[0.5, 0.5, 0.9, 0.9])
    sides = [[make_zero(tmp_path / name, rows=rows, **sizes)] for name in ("with", "without")]
    _, consistency, score = judge("language_repaired", with_paths=sides[0], without_paths=sides[1], phases=2).protocol
    assert consistency == (
        "rewards/language/mean: training: 16 problems, 8 samples of each, temperature 1.0, all tokens; every phase"
    )
    assert score.startswith("pass@1: held-out, first and last: 256 problems")
    config = {"problems": 128, "samples": 16, "temperature": 0.6, "top_p": 0.95}
    votes = {"cons@1": (0.5, 0.1), "cons@4": (0.7, 0.1), "cons@4_gain": (0.2, 0.05)}
    path = evaluated(tmp_path / "eval", config=config, pair_sum=votes)
    assert judge("votes", path=path, task="pair_sum", sizes=[1, 4]).protocol == (
        "1 seed (0)",
        "held-out: 128 problems, 16 samples of each, temperature 0.6, top-p 0.95",
    )


def test_needs_no_jax():
    code = "import sys, r1jax.evals.claim_kinds; print(sorted({'jax', 'jaxlib', 'ml_collections'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
