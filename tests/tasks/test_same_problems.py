"""The same seed gives the same problems, splits and draws: digests of what 54c0c0a gave. A trained run depends on every one."""

import dataclasses
import hashlib
import json

import pytest

from r1jax.data.prompts import PromptIterator
from r1jax.tasks.mini import corpus, general_texts
from r1jax.tasks.mini.sum_traces import sum_trace
from r1jax.tasks.mixture import TaskSchedule, make_mixture, make_task
from tests.tasks.specs import spec, specs

TASKS = {
    "pair_sum": {"kind": "mini", "name": "pair_sum"},
    "five": {"kind": "mini", "name": "pair_sum", "config": {"count": 5, "high": 40, "heldout_fraction": 0.2}},
    "helpful": {"kind": "mini", "name": "helpful"},
    "safety": {"kind": "mini", "name": "safety", "config": {"heldout_fraction": 0.3}},
    "chain_sum": {
        "kind": "reasoning_gym",
        "dataset": "chain_sum",
        "config": {"min_terms": 2, "max_terms": 3},
        "seed": 5,
        "heldout_fraction": 0.1,
    },
    "countdown": {"kind": "reasoning_gym", "dataset": "countdown", "answer_instruction": "Put it in <answer>."},
}
MIXED = [TASKS["pair_sum"], TASKS["chain_sum"] | {"weight": 2.5}, TASKS["helpful"] | {"weight": 0.5, "from_update": 3}]
RANGE = range(60)


def digest(value):
    return hashlib.blake2b(json.dumps(value, ensure_ascii=False).encode(), digest_size=8).hexdigest()


def plain(problem):
    """A problem as it was when the digests were taken."""
    return {name: value for name, value in dataclasses.asdict(problem).items() if name != "question"}


def digest_of(task, count=40):
    indices = [*range(count), 10**6]
    return digest([plain(task.problem(i, split=s)) for s in ("train", "heldout") for i in indices])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pair_sum", "88e457b585b891cf"),
        ("five", "a841b038c9fd30d9"),
        ("helpful", "0fdda2c3de305d1e"),
        ("safety", "36149d83b71e7264"),
        ("chain_sum", "a321bbf8350d60c3"),
        ("countdown", "60a6b498e1cc89cf"),
    ],
)
def test_problems_of_a_task(name, expected):
    assert digest_of(make_task(spec(TASKS[name]))) == expected


def test_draws_of_a_mixture_and_a_schedule():
    assert digest_of(make_mixture(specs(MIXED), seed=7), 100) == "fa6bf4f01d9fe75a"
    schedule = TaskSchedule(specs(MIXED), seed=7)
    assert [digest_of(schedule.at(updates), 100) for updates in (2, 3)] == ["890ae44b5d3f2705", "fa6bf4f01d9fe75a"]


def test_the_stream_of_training_problems():
    stream = PromptIterator(make_mixture(specs(MIXED), seed=7), batch_size=8, seed=1)
    assert digest([plain(problem) for _ in range(5) for problem in next(stream)]) == "26c888612d89f736"


def test_the_order_of_problems_from_files(tmp_path):
    for name, numbers in (("train", range(50)), ("test", range(45, 60))):
        rows = ({"question": f"How many nails are {n} nails?", "answer": f"#### {n}"} for n in numbers)
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"train": str(tmp_path / "train.jsonl"), "heldout": str(tmp_path / "test.jsonl")}
    task = make_task(spec({"kind": "files", "dataset": "gsm8k", "seed": 3, **files}))
    answers = [[task.problem(i, split=s).answer for i in range(120)] for s in ("train", "heldout")]
    assert digest(answers) == "6cc33a4d27e4ede8"


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda i: corpus.corpus_text(i, seed=2, warmup_documents=10, config={"count": 5}), "b88ebde61f4cbe23"),
        (lambda i: general_texts.world_text(i, seed=2, general_share=0.5, prose_share=0.2), "69dc33e6707bc323"),
        (lambda i: general_texts.tokenizer_text(i, seed=2, general_share=0.5), "87286a2aabc34a5a"),
        (
            lambda i: sum_trace(i, seed=1, config={"min_terms": 2, "max_terms": 3}, steps_share=0.5),
            "78be1df4033708dc",
        ),
    ],
)
def test_texts_of_the_toy_world(make, expected):
    assert digest([make(index) for index in RANGE]) == expected


def test_records_of_the_toy_world():
    makers = (general_texts.conversations, general_texts.candidates, general_texts.labels)
    assert digest([make(seed=1, count=20) for make in makers]) == "579f2fcdf8513117"
