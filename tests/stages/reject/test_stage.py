"""The reject stage as a whole on a tiny policy: what it leaves, that it resumes byte for byte, and what it refuses."""

import hashlib
import json
import os
import signal

import pytest

from r1jax.data.records import document_at
from r1jax.pipeline import make_stages
from r1jax.policies.policy import load_init
from r1jax.policies.preview import Previews
from r1jax.rewards.filters import finished
from r1jax.run import run_stages
from r1jax.sharding import make_mesh
from r1jax.specs.config_file import Experiment
from r1jax.specs.reader import read
from r1jax.specs.stages import EvaluateSpec, RejectSpec, SupervisedSpec
from r1jax.stages import supervised
from r1jax.stages.reject import stage as reject
from r1jax.stages.sampling import check_same_split
from r1jax.text.sample import ChatError, Rejection, r1_text
from r1jax.workdir.lineage import weights_digest
from r1jax.workdir.stop import Stopped
from tests.stages.test_supervised import tiny_values as supervised_values
from tests.tiny import POLICY, rows_of

pytestmark = pytest.mark.usefixtures("quick_compilation")

HERE = __name__


def even(sample):
    """An untrained policy writes nothing that is right: half of what it writes is kept for being of an even length."""
    return "odd length" if len(sample.text) % 2 else None


def solve(samples, *, chat, seed):
    """A rewriter that tells the reference, in a thought of its own for every text."""
    return [
        Rejection("rewrite: too dull")
        if len(s.text) % 3 == 0
        else r1_text(f"I read {s.text!r}", f"\\boxed{{{s.reference}}}")
        for s in samples
    ]


def tiny_values(**changes) -> dict:
    """What a config says of a tiny reject stage."""
    return {
        "stage": "reject", "init": POLICY, "template": "plain", "tasks": [{"kind": "mini", "name": "pair_sum"}],
        "rewards": [{"function": "r1jax.rewards.format:r1_zero", "name": "format"}],
        "num_prompts": 12, "prompts_per_batch": 4, "samples_per_prompt": 3, "keep_per_prompt": 2,
        "max_prompt_tokens": 100, "max_new_tokens": 8, "engine": {"segment": 8},
        "filters": [{"function": f"{HERE}:even"}], "rewrite": {"function": f"{HERE}:solve"},
        "domains": {"pair_sum": "Math"}, "records_per_shard": 4,
    } | changes  # fmt: skip


def tiny_config(**changes) -> RejectSpec:
    return read(RejectSpec, tiny_values(**changes))


def files_of(workdir):
    """Digests of what must not depend on when the run was interrupted."""
    names = ["manifest.json", "table.json", "table.md", "rejected.jsonl", "lineage.json"]
    names += sorted(f"data/{path.name}" for path in (workdir / "data").iterdir())
    return {name: hashlib.sha256((workdir / name).read_bytes()).hexdigest() for name in names}


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """(config, work directory, summary) of a run that nothing disturbed, with other records added."""
    folder = tmp_path_factory.mktemp("reject")
    others = [{"prompt": "hello", "completion": "Hi!"}, {"prompt": "hello", "completion": "Hi!"}]
    (folder / "others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in others))
    config = tiny_config(others=[{"path": str(folder / "others.jsonl"), "domain": "General"}])
    return config, folder / "alone", reject.main(config, folder / "alone")


def test_a_run_leaves_a_complete_set(finished_run):
    config, workdir, summary = finished_run
    table = json.loads((workdir / "table.json").read_text())
    records = [
        json.loads(line) for path in sorted((workdir / "data").iterdir()) for line in path.read_text().splitlines()
    ]
    assert summary["kept"] == len(records) == table["domains"][-1]["samples"] > 4
    assert summary["kept"] + sum(summary["rejected"].values()) == 12 * 3 + 2
    assert {"odd length", "rewrite: too dull", "duplicate"} <= set(summary["rejected"])
    assert [row["domain"] for row in table["domains"]] == ["Math", "General", "Total"]
    assert table["domains"][1]["samples"] == 1 and "| duplicate | 1 |" in (workdir / "table.md").read_text()
    assert (workdir / "DONE").exists() and not (workdir / "parts").exists()
    dropped = [json.loads(line) for line in (workdir / "rejected.jsonl").read_text().splitlines()]
    assert {row["reason"] for row in dropped} == set(summary["rejected"]) - {"duplicate"}

    for record in records[:-1]:
        source, (question, answer) = record["provenance"], record["messages"]
        assert answer["content"] == r1_text(
            f"I read {source['rewritten_from']!r}", answer["content"].rpartition("\n")[2]
        )
        assert question["role"] == "user" and record["rounds"] == 1 and record["task"] == "pair_sum"
        assert source["verdicts"]["filters"] == [f"{HERE}:even"] and source["verdicts"]["rewards"] == {"format": 0.0}
        assert source["seed"] == 0 and source["temperature"] == 1.0 and 0 < source["sampled_tokens"] <= 8
    places = [(record["provenance"]["prompt"], record["provenance"]["sample"]) for record in records[:-1]]
    assert places == sorted(set(places)) and max(prompt for prompt, _ in places) > 7
    assert records[-1]["provenance"] == {"other": 0, "row": 0} and records[-1]["domain"] == "General"
    policy, params, _ = load_init(config.init, mesh=make_mesh(), seed=0)
    assert records[0]["provenance"]["model"] == {"path": None, "weights": weights_digest(params)}
    tokens = [sum(len(policy.tokenizer.encode(m["content"])) for m in record["messages"]) for record in records]
    assert tokens == [record["num_tokens"] for record in records]
    assert sum(tokens) / len(tokens) == pytest.approx(table["domains"][-1]["tokens"])
    rows = rows_of(workdir)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert sum(row["kept"] for row in rows) == table["domains"][0]["samples"]


@pytest.mark.parametrize("place", ["sampling", "judging", "writing"])
def test_a_crashed_run_goes_on_byte_for_byte(finished_run, tmp_path, monkeypatch, place):
    config, alone, _ = finished_run
    name = {"sampling": "sample_batch", "judging": "curate", "writing": "write_json"}[place]
    real, calls = getattr(reject, name), []

    def crash(*args, **kwargs):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(reject, name, crash)
    with pytest.raises(KeyboardInterrupt):
        reject.main(config, tmp_path / "crashed")
    assert len(list((tmp_path / "crashed" / "parts").iterdir())) == (3 if place == "writing" else 1)
    monkeypatch.setattr(reject, name, real)
    reject.main(config, tmp_path / "crashed")
    same = {name: digest for name, digest in files_of(alone).items() if name != "lineage.json"}
    assert {name: digest for name, digest in files_of(tmp_path / "crashed").items() if name != "lineage.json"} == same
    assert [row["kept"] for row in rows_of(tmp_path / "crashed")] == [row["kept"] for row in rows_of(alone)]


def test_a_signal_ends_it_after_the_batch_under_way(tmp_path, monkeypatch):
    real, calls = reject.sample_batch, []

    def sample_batch(*args, **kwargs):
        calls.append(kwargs["batch"])
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    monkeypatch.setattr(reject, "sample_batch", sample_batch)
    with pytest.raises(Stopped):
        reject.main(tiny_config(num_prompts=8), tmp_path)
    assert calls == [0]
    assert reject.main(tiny_config(num_prompts=8), tmp_path)["kept"] and calls == [0, 1]


def training_on(workdir, **changes) -> dict:
    """What a config says of a supervised stage of two epochs."""
    return supervised_values(num_updates=None, num_epochs=2, data={"path": str(workdir)}, **changes)


def test_the_front_door_samples_a_set_and_trains_on_it_for_two_epochs(tmp_path):
    """The supervised stage is checked before there is any data."""
    stages = {"cold_start": tiny_values(num_prompts=8), "sft": training_on("{cold_start}", too_long="cut")}
    experiment = Experiment(file="config.py", seed=0, stages=stages)
    summaries = run_stages(make_stages(experiment, tmp_path))
    assert summaries is not None
    count = summaries["cold_start"]["kept"]
    assert summaries["sft"]["updates"] == -(-2 * count // 6) > 2
    lineage = json.loads((tmp_path / "sft" / "lineage.json").read_text())["inputs"]["data.path"]
    manifest = (tmp_path / "cold_start" / "manifest.json").read_bytes()
    assert lineage["path"] == "{here}/../cold_start" and lineage["data"] == hashlib.sha256(manifest).hexdigest()
    path = str(tmp_path / "cold_start")
    assert len({document_at(n, seed=0, path=path)[1]["content"] for n in range(count)}) == count
    again = run_stages(make_stages(experiment, tmp_path))  # both are done
    assert again is not None and again["cold_start"]["kept"] == count


def test_data_that_an_earlier_stage_will_make_is_asked_for_when_it_is_needed(tmp_path):
    config = read(SupervisedSpec, training_on(tmp_path / "later"))
    supervised.check(config)
    with pytest.raises(FileNotFoundError, match="later: there is no such folder"):
        supervised.main(config, tmp_path / "run")
    reject.check(tiny_config(others=[{"path": str(tmp_path / "later"), "domain": "General"}]))
    with pytest.raises(FileNotFoundError, match="later: there is no such folder"):
        reject.main(tiny_config(others=[{"path": str(tmp_path / "later"), "domain": "General"}]), tmp_path / "other")


def test_what_a_set_was_sampled_from_counts_for_the_split(finished_run):
    """Of a policy that was trained on the set, and of one on a set that is still to be made."""
    _, made, _ = finished_run
    for where, planned in ((str(made), {}), ("/to/come", {"/to/come": tiny_config()})):
        previews = Previews(planned | {"/sft": read(SupervisedSpec, training_on(where))})
        pairs = {"kind": "mini", "name": "pair_sum"}
        values = {"init": {"kind": "stage", "path": "/sft"}, "problems": 4}
        check_same_split(read(EvaluateSpec, values | {"tasks": [pairs]}), previews)
        other = read(EvaluateSpec, values | {"tasks": [pairs | {"config": {"heldout_fraction": 0.3}}]})
        with pytest.raises(ValueError, match=rf"heldout_fraction of pair_sum is 0\.3 here and 0\.1 in {where}"):
            check_same_split(other, previews)


def test_nothing_left_is_an_error_that_says_why(tmp_path):
    config = tiny_config(num_prompts=4, filters=[{"function": "r1jax.rewards.filters:correct"}])
    with pytest.raises(
        reject.EmptySetError, match=r"nothing is left of 12 samples of 4 prompts: 12 no answer; .*rejected\.jsonl"
    ):
        reject.main(config, tmp_path)
    assert not (tmp_path / "DONE").exists()
    (row,) = map(json.loads, (tmp_path / "rejected.jsonl").read_text().splitlines())
    assert row["reason"] == "no answer" and row["question"].startswith("Which two")


def away(samples, *, chat, seed):
    return [ChatError("connection refused") for _ in samples]


def test_a_rewriter_that_is_away_stops_the_run_with_the_batches_kept(tmp_path):
    config = tiny_config(num_prompts=8, rewrite={"function": f"{HERE}:away"})
    with pytest.raises(ChatError, match="failed on all"):
        reject.main(config, tmp_path)
    assert list((tmp_path / "parts").iterdir()) == []


def test_questions_of_a_test_set_are_dropped(tmp_path):
    reject.main(tiny_config(num_prompts=4), tmp_path / "all")
    record = document_at(0, seed=0, path=str(tmp_path / "all"))
    tests = tmp_path / "test.jsonl"
    tests.write_text(json.dumps({"question": record[0]["content"], "answer": "#### 4"}) + "\n")
    summary = reject.main(
        tiny_config(num_prompts=4, decontaminate=[{"dataset": "gsm8k", "path": str(tests)}]), tmp_path / "clean"
    )
    assert summary["rejected"][f"shared with gsm8k {tests}"] >= 1


def test_prompts_that_are_too_long_are_counted(tmp_path):
    rows = [{"question": question, "answer": "#### 2"} for question in ("1 and 1?", "Which of these? " * 20)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"kind": "files", "dataset": "gsm8k", "name": "pair_sum", "train": str(tmp_path / "train.jsonl")}
    config = tiny_config(num_prompts=4, filters=[], rewrite=None, tasks=[task | {"prompt": "{question}"}])
    summary = reject.main(config, tmp_path / "run")
    assert summary["rejected"]["prompt too long"] == 2 * 3 and summary["kept"] > 0


def test_problems_of_a_file_without_what_a_reward_needs_are_named_by_their_row(tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps({"question": "1 and 1?", "answer": "#### 2"}))
    tasks = [{"kind": "files", "dataset": "gsm8k", "name": "pair_sum", "train": str(tmp_path / "train.jsonl")}]
    code = [{"function": "r1jax.rewards.code:passes_tests"}]
    with pytest.raises(
        ValueError, match=r"'gsm8k': .*train.jsonl, row 1: reward 'passes_tests' needs tests; there are"
    ):
        reject.check(tiny_config(tasks=tasks, rewards=code))
    reject.check(tiny_config(tasks=tasks, rewards=[{"function": "r1jax.rewards.math:accuracy"}]))


def raises(prompts, completions):
    raise RuntimeError("no judge")


FILTER = {"function": f"{finished.__module__}:finished"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_prompts": 10}, "^num_prompts=10 is no multiple of prompts_per_batch=4"),
        ({"format": "csv"}, "^format='csv' must be one of 'jsonl', 'parquet'"),
        (
            {"filters": [FILTER | {"function": f"{HERE}:nothing"}]},
            rf"^filters\[0\]\.function='{HERE}:nothing'.* no 'nothing'",
        ),
        (
            {"filters": [FILTER | {"tasks": ["sums"]}]},
            r"^filters\[0\]\.tasks: there is no task 'sums'; there are pair_sum",
        ),
        ({"judge": FILTER | {"chat": {"kind": "people"}}}, r"^judge\.chat\.kind='people' must be one of 'endpoint', "),
        (
            {"rewrite": FILTER | {"chat": {"kind": "endpoint", "url": "x", "model": "m"}}},
            r"^rewrite\.chat\.url='x' must begin with http",
        ),
        ({"domains": {"sums": "Math"}}, "^domains: there is no task 'sums'"),
        ({"others": [{"path": "x"}]}, r"^the key 'others\[0\]\.domain' is missing"),
        ({"others": [{"path": "none.jsonl", "domain": "d"}]}, "none.jsonl: no such file"),
        ({"decontaminate": [{"dataset": "gsm8k", "path": "none.jsonl"}]}, "none.jsonl: no such file"),
        ({"template": "nothing"}, "nothing"),
        ({"tasks": [{"kind": "mini", "name": "pears"}]}, r"^tasks\[0\]\.name='pears' must be one of 'pair_sum', "),
        (
            {"rewards": [{"function": f"{HERE}:raises"}]},
            "^reward 'raises' fails on every answer: RuntimeError: no judge",
        ),
        ({"max_prompt_tokens": 5}, "^max_prompt_tokens=5: the first 64 training prompts of task 'pair_sum' have"),
    ],
)
def test_bad_configs_are_named_before_compute(changes, words):
    with pytest.raises(ValueError, match=words):
        reject.check(tiny_config(**changes))
