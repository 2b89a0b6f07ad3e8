"""Stages that would train on what a later one holds out are refused."""

import json

import pytest
from ml_collections import ConfigDict

from r1jax.stages.reject import stage as reject
from r1jax.stages.rl import stage as rl
from r1jax.stages.splits import check_same_split
from r1jax.tasks.mini.pair_sum import PairSum
from r1jax.tasks.mini.sum_traces import sum_trace
from tests.stages.reject.test_stage import tiny_config as reject_config
from tests.stages.rl.test_stage import tiny_config

SUMS = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
CORPUS = "r1jax.tasks.mini.corpus:corpus_text"


def stage_at(path, **config):
    path.mkdir()
    (path / "config.json").write_text(
        json.dumps({"stage": "supervised", "seed": 0, "init": {"kind": "random"}, **config})
    )
    return {"kind": "stage", "path": str(path)}


def corpus(**config):
    return {"function": CORPUS, "arguments": {"config": config}}


def pairs(**config):
    return [{"kind": "mini", "name": "pair_sum", "config": config}]


def test_another_fraction_in_the_corpus_is_an_error_that_names_both(tmp_path):
    init = stage_at(tmp_path / "base", data=corpus(heldout_fraction=0.25))
    with pytest.raises(ValueError, match=r"heldout_fraction of pair_sum is 0\.1 here and 0\.25 in .*base"):
        check_same_split(init, pairs())  # 0.1 is the default: nobody wrote it
    check_same_split(init, pairs(heldout_fraction=0.25, high=30))
    with pytest.raises(ValueError, match=r"is 0\.25 here and 0\.1 in"):
        check_same_split(stage_at(tmp_path / "other", data=corpus()), pairs(heldout_fraction=0.25))


def test_every_stage_before_is_looked_at(tmp_path):
    base = stage_at(tmp_path / "base", data=corpus(heldout_fraction=0.2))
    sft = stage_at(tmp_path / "sft", init=base, data={"function": f"{__name__}:no_split"})
    rl_before = stage_at(tmp_path / "rl", init=sft, tasks=pairs(heldout_fraction=0.1))
    with pytest.raises(ValueError, match=r"is 0\.1 here and 0\.2 in .*base"):
        check_same_split(rl_before, pairs())
    with pytest.raises(ValueError, match=r"is 0\.2 here and 0\.1 in .*rl,"):
        check_same_split(rl_before, pairs(heldout_fraction=0.2))


def test_whatever_a_path_of_a_stage_before_names_is_looked_at(tmp_path):
    """A set's other records, what a judge starts from, a reward model's candidates: none is "init" or "data"."""
    base = stage_at(tmp_path / "base", tasks=pairs(heldout_fraction=0.3))
    for place, config in enumerate(
        [{"others": [base]}, {"judge": {"chat": {"init": base}}}, {"candidates": base}, {"rewards": [base]}]
    ):
        with pytest.raises(ValueError, match=r"is 0\.1 here and 0\.3 in .*base"):
            check_same_split(stage_at(tmp_path / f"next{place}", **config), pairs())


def test_records_from_a_path_are_no_data_that_cannot_be_made(tmp_path, capsys):
    base = stage_at(tmp_path / "base", data=corpus())
    check_same_split(stage_at(tmp_path / "reward", data={"path": base["path"]}), pairs())
    assert not capsys.readouterr().err


def no_split(index, *, seed):
    return "?", "!"


def test_data_sets_of_reasoning_gym_are_told_apart_and_defaults_are_seen(tmp_path):
    data = {"function": f"{sum_trace.__module__}:sum_trace", "arguments": {"config": SUMS, "steps_share": 0.5}}
    init = stage_at(tmp_path / "format", data=data)
    sums = {"kind": "reasoning_gym", "dataset": "chain_sum", "config": SUMS}
    check_same_split(init, [sums, *pairs()])
    with pytest.raises(ValueError, match=r"of chain_sum is 0\.4 here and 0\.2 in"):
        check_same_split(init, [sums | {"heldout_fraction": 0.4}])
    check_same_split(init, [{"kind": "reasoning_gym", "dataset": "leg_counting", "heldout_fraction": 0.4}])


def test_data_that_cannot_be_made_here_is_told(tmp_path, capsys):
    check_same_split(stage_at(tmp_path / "base", data={"function": "nowhere:f"}), pairs())
    assert "cannot tell which problems" in capsys.readouterr().err
    check_same_split({"kind": "stage", "path": str(tmp_path / "none")}, pairs())


@pytest.mark.parametrize(("stage", "config"), [(rl, tiny_config()), (reject, reject_config())])
def test_the_stages_that_sample_ask_for_it(tmp_path, stage, config):
    values = config.to_dict() | {"init": stage_at(tmp_path / "base", data=corpus(heldout_fraction=0.3))}
    with pytest.raises(ValueError, match=r"0\.1 here and 0\.3 in"):
        stage.check(ConfigDict(values))


@pytest.mark.parametrize(
    "config",
    [
        {"stage": "reward_model", "data": {"function": f"{__name__}:records"}},
        {"stage": "preferences", "candidates": {"function": f"{__name__}:records"}},
        {"stage": "reject", "others": [{"function": f"{__name__}:records", "domain": "General"}]},
    ],
)
def test_records_that_a_function_makes_are_looked_at(tmp_path, config, capsys):
    init = stage_at(tmp_path / "before", **config)
    with pytest.raises(ValueError, match=r"heldout_fraction of pair_sum is 0\.1 here and 0\.3"):
        check_same_split(init, pairs(heldout_fraction=0.1))
    assert "cannot tell" not in capsys.readouterr().err


def records(*, seed):
    """Records whose making asks for a split."""
    assert seed == 0
    yield {"prompt": PairSum(heldout_fraction=0.3).problem(0, split="train").messages[0]["content"], "completion": "?"}
