"""Stages that would train on what a later one holds out are refused."""

import json

import pytest

from r1jax.policies.preview import Previews
from r1jax.specs.fields import to_plain
from r1jax.specs.reader import read
from r1jax.specs.stages import STAGES
from r1jax.stages import sampling
from r1jax.stages.reject import stage as reject
from r1jax.stages.rl import stage as rl
from r1jax.stages.sampling import check_same_split
from r1jax.tasks.mini.pair_sum import PairSum
from r1jax.tasks.mini.sum_traces import sum_trace
from tests.stages.rl.test_stage import LENGTH, tiny_config
from tests.tiny import POLICY

SUMS = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
CORPUS = "r1jax.tasks.mini.corpus:corpus_text"


def corpus(**config):
    return {"function": CORPUS, "arguments": {"config": config}}


def pairs(**config):
    return [{"kind": "mini", "name": "pair_sum", "config": config}]


def defaults(stage):
    """What a stage of a kind needs to be said of it at least."""
    no_split = {"function": f"{__name__}:no_split"}
    return {
        "supervised": {"init": POLICY, "data": no_split, "num_updates": 1},
        "rl": {"init": POLICY, "tasks": pairs(), "rewards": [LENGTH]},
        "reject": {"init": POLICY, "tasks": SAME, "rewards": [LENGTH], "num_prompts": 32},
        "reward_model": {"init": POLICY, "kind": "helpful", "data": no_split},
        "preferences": {"candidates": no_split, "judge": {"function": f"{__name__}:no_split"}},
    }[stage]


SAME = [{"kind": "reasoning_gym", "dataset": "leg_counting"}]
"""Tasks that share no space with what the tests compare."""


def spec_of(stage="supervised", **values):
    return read(STAGES[stage], {"stage": stage} | defaults(stage) | values)


def stage_at(path, stage="supervised", **values):
    """An ``init`` from the work directory of a stage that has run with such a config."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(to_plain(spec_of(stage, **values))))
    return {"kind": "stage", "path": str(path)}


def check(init, tasks):
    check_same_split(spec_of("rl", init=init, tasks=tasks), Previews())


def test_another_fraction_in_the_corpus_is_an_error_that_names_both(tmp_path):
    init = stage_at(tmp_path / "base", data=corpus(heldout_fraction=0.25))
    with pytest.raises(ValueError, match=r"heldout_fraction of pair_sum is 0\.1 here and 0\.25 in .*base"):
        check(init, pairs())  # 0.1 is the default, which no config says
    check(init, pairs(heldout_fraction=0.25, high=30))
    with pytest.raises(ValueError, match=r"is 0\.25 here and 0\.1 in"):
        check(stage_at(tmp_path / "other", data=corpus()), pairs(heldout_fraction=0.25))


def test_every_stage_before_is_looked_at(tmp_path):
    base = stage_at(tmp_path / "base", data=corpus(heldout_fraction=0.2))
    sft = stage_at(tmp_path / "sft", init=base)
    rl_before = stage_at(tmp_path / "rl", "rl", init=sft, tasks=pairs(heldout_fraction=0.1))
    with pytest.raises(ValueError, match=r"is 0\.1 here and 0\.2 in .*base"):
        check(rl_before, pairs())
    with pytest.raises(ValueError, match=r"is 0\.2 here and 0\.1 in .*rl,"):
        check(rl_before, pairs(heldout_fraction=0.2))


def test_a_stage_that_has_still_to_run_is_looked_at(tmp_path):
    init = {"kind": "stage", "path": str(tmp_path / "base")}
    spec = spec_of("rl", init=init)
    check_same_split(spec, Previews())  # not known
    with pytest.raises(ValueError, match=r"is 0\.1 here and 0\.2 in .*base"):
        check_same_split(spec, Previews({init["path"]: spec_of(data=corpus(heldout_fraction=0.2))}))


def test_whatever_a_path_of_a_stage_before_names_is_looked_at(tmp_path):
    """A set's other records, what a judge starts from, a reward model: none is "init" or "data"."""
    base = stage_at(tmp_path / "base", "rl", tasks=pairs(heldout_fraction=0.3))
    path, chat = base["path"], {"kind": "policy", "init": base}
    reward = {"kind": "reward_model", "path": path, "name": "helpful"}
    for number, (stage, values) in enumerate(
        [
            ("reject", {"others": [{"path": path, "domain": "General"}]}),
            ("reject", {"judge": {"function": f"{__name__}:no_split", "chat": chat}}),
            ("preferences", {"candidates": {"path": path}}),
            ("rl", {"tasks": SAME, "rewards": [LENGTH, reward]}),
        ]
    ):
        with pytest.raises(ValueError, match=r"is 0\.1 here and 0\.3 in .*base"):
            check(stage_at(tmp_path / f"next{number}", stage, **values), pairs())


def test_the_data_of_a_stage_before_are_made_once_a_run(tmp_path, monkeypatch):
    init = stage_at(tmp_path / "base", data=corpus())
    previews, makes, real = Previews(), [], sampling.make_source
    monkeypatch.setattr(sampling, "make_source", lambda *args, **kwargs: makes.append(1) or real(*args, **kwargs))
    for _ in range(3):
        check_same_split(spec_of("rl", init=init, tasks=pairs()), previews)
    with pytest.raises(ValueError, match=r"is 0\.2 here and 0\.1 in .*base"):
        check_same_split(spec_of("rl", init=init, tasks=pairs(heldout_fraction=0.2)), previews)
    assert len(makes) == 1


def test_records_from_a_path_are_no_data_that_cannot_be_made(tmp_path, capsys):
    base = stage_at(tmp_path / "base", data=corpus())
    check(stage_at(tmp_path / "reward", "reward_model", data={"path": base["path"]}), pairs())
    assert not capsys.readouterr().err


def no_split(*arguments, seed):
    """Records, or a document, of no task."""
    return "?", "!"


def test_data_sets_of_reasoning_gym_are_told_apart_and_defaults_are_seen(tmp_path):
    data = {"function": f"{sum_trace.__module__}:sum_trace", "arguments": {"config": SUMS, "steps_share": 0.5}}
    init = stage_at(tmp_path / "format", data=data)
    sums = {"kind": "reasoning_gym", "dataset": "chain_sum", "config": SUMS}
    check(init, [sums, *pairs()])
    with pytest.raises(ValueError, match=r"of chain_sum is 0\.4 here and 0\.2 in"):
        check(init, [sums | {"heldout_fraction": 0.4}])
    check(init, [{"kind": "reasoning_gym", "dataset": "leg_counting", "heldout_fraction": 0.4}])


@pytest.mark.parametrize("is_link", [False, True])
def test_a_file_is_the_same_by_another_name(tmp_path, is_link):
    problems, link = tmp_path / "problems.jsonl", tmp_path / "link.jsonl"
    problems.write_text("".join(json.dumps({"prompt": f"{n} + 1", "answer": str(n + 1)}) + "\n" for n in range(40)))
    link.symlink_to(problems)
    init = stage_at(tmp_path / "base", "rl", tasks=[{"kind": "files", "path": str(problems), "heldout_fraction": 0.2}])
    tasks = [{"kind": "files", "path": str(link if is_link else problems), "heldout_fraction": 0.4}]
    with pytest.raises(ValueError, match=rf"heldout_fraction of {problems} is 0\.4 here and 0\.2 in "):
        check(init, tasks)


def test_data_that_cannot_be_made_here_is_said(tmp_path, capsys):
    check(stage_at(tmp_path / "base", data={"function": "nowhere:f"}), pairs())
    assert "cannot tell which problems" in capsys.readouterr().err


@pytest.mark.parametrize("made", [True, False])
def test_a_folder_of_a_model_is_no_stage(tmp_path, capsys, made):
    """Hugging Face's folders have a config.json too; nothing is known of their data, and nothing is said."""
    if made:
        (tmp_path / "config.json").write_text(
            json.dumps({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]})
        )
    for kind in ("hf", "stage"):
        check({"kind": kind, "path": str(tmp_path)}, pairs())
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


@pytest.mark.parametrize(
    ("stage", "spec"),
    [
        (rl, lambda init: tiny_config(init=init)),
        (reject, lambda init: spec_of("reject", init=init, tasks=pairs(), template="plain")),
    ],
    ids=["rl", "reject"],
)
def test_the_stages_that_sample_ask_for_it(tmp_path, stage, spec):
    init = {"kind": "stage", "path": str(tmp_path / "base")}
    previews = Previews({init["path"]: spec_of(data=corpus(heldout_fraction=0.3), template="plain")})
    with pytest.raises(ValueError, match=r"0\.1 here and 0\.3 in"):
        stage.check(spec(init), previews)


@pytest.mark.parametrize(
    ("stage", "key"), [("reward_model", "data"), ("preferences", "candidates"), ("reject", "others")]
)
def test_records_that_a_function_makes_are_looked_at(tmp_path, stage, key, capsys):
    source = {"function": f"{__name__}:records"}
    init = stage_at(tmp_path / "before", stage, **{key: [source | {"domain": "x"}] if key == "others" else source})
    with pytest.raises(ValueError, match=r"heldout_fraction of pair_sum is 0\.1 here and 0\.3"):
        check(init, pairs(heldout_fraction=0.1))
    assert "cannot tell" not in capsys.readouterr().err


def records(*, seed):
    """Records whose making asks for a split."""
    assert seed == 0
    yield {"prompt": PairSum(heldout_fraction=0.3).problem(0, split="train").messages[0]["content"], "completion": "?"}
