"""The preferences stage: pairs from a scripted judge, a judge that goes away, a run that was stopped, bad configs."""

import json
import os
import signal

import pytest

from r1jax.data.preferences import parse_preference
from r1jax.data.records import records_of
from r1jax.specs.policy import SourceSpec
from r1jax.specs.reader import read
from r1jax.specs.stages import PreferencesSpec
from r1jax.stages import preferences
from r1jax.text.sample import ChatError
from r1jax.workdir.metrics import MetricsWriter
from r1jax.workdir.stop import Stopped
from tests.tiny import rows_of

ASKED, STOPPED = [], []


def candidates(*, seed, count=12):
    for place in range(count):
        yield {
            "messages": [{"role": "user", "content": f"question {place}"}],
            "responses": ["yes", "no!"] if place % 2 else ["no!", "yes"],
        }


def polite(questions, first, second, *, chat, seed, fails_at=None, stops_at=None):
    """Prefers "yes"; nonsense for question 3; not there for ``fails_at``."""
    ASKED.append(len(questions))
    contents = [messages[-1]["content"] for messages in questions]
    if f"question {fails_at}" in contents:
        raise TimeoutError("30 s")
    if f"question {stops_at}" in contents and not STOPPED:
        STOPPED.append(True)
        os.kill(os.getpid(), signal.SIGTERM)
    marks = ["[[A>>B]]" if text == "yes" else "[[B>>A]]" for text in first]
    return ["good question" if content == "question 3" else mark for content, mark in zip(contents, marks, strict=True)]


def tiny_values(*, options=None, **changes) -> dict:
    values = {
        "stage": "preferences",
        "candidates": {"function": f"{__name__}:candidates"},
        "judge": {"function": f"{__name__}:polite", "options": options or {}},
        "candidates_per_batch": 4,
    }
    return values | changes


def tiny_config(*, options=None, **changes) -> PreferencesSpec:
    return read(PreferencesSpec, tiny_values(options=options, **changes))


def test_pairs_are_made_counted_and_read_by_the_reward_model(tmp_path):
    ASKED.clear()
    summary = preferences.main(tiny_config(), tmp_path)
    assert summary["pairs"] == 11 and ASKED == [4] * 12  # 4 queries of 3 batches
    assert summary["counts"] == {
        "candidates": 12, "malformed": 4, "error": 0, "judge_failed": 1, "unclear": 0, "unbalanced": 0, "kept": 11,
    }  # fmt: skip
    rows = records_of(SourceSpec(path=str(tmp_path)), seed=0)
    found = [parse_preference(row.values, "helpful", where=row.where) for row in rows]
    assert [pair.responses for pair in found] == [("yes", "no!")] * 11
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["files"]["pairs.jsonl"]["records"] == 11
    verdicts = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert len(verdicts) == 12 and verdicts[0]["verdicts"] == [-2] * 4
    assert verdicts[3]["failures"] == [["malformed", "judge: not one mark"]] * 4
    assert [row["kept"] for row in rows_of(tmp_path)] == [3, 4, 4]
    assert (tmp_path / "DONE").exists()


def test_a_run_that_was_stopped_asks_only_what_it_has_not(tmp_path):
    config = tiny_config(options={"stops_at": 5})
    preferences.main(tiny_config(), tmp_path / "alone")
    with pytest.raises(Stopped):
        preferences.main(config, tmp_path / "stopped")
    with (tmp_path / "stopped" / "verdicts.jsonl").open("a") as file:
        file.write('{"messages": [')  # killed while it wrote
    ASKED.clear()
    preferences.main(config, tmp_path / "stopped")
    assert ASKED == [4] * 4
    for name in ("data/pairs.jsonl", "verdicts.jsonl"):
        assert (tmp_path / "stopped" / name).read_text() == (tmp_path / "alone" / name).read_text()
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "alone")


@pytest.mark.parametrize("is_written", [False, True])
def test_a_kill_beside_the_row_of_a_batch_loses_and_doubles_nothing(tmp_path, monkeypatch, is_written):
    preferences.main(tiny_config(), tmp_path / "alone")
    real, steps = MetricsWriter.write, []

    def write(self, step, values):
        steps.append(step)
        if len(steps) != 2:
            return real(self, step, values)
        if is_written:
            real(self, step, values)
        raise KeyboardInterrupt

    monkeypatch.setattr(MetricsWriter, "write", write)
    with pytest.raises(KeyboardInterrupt):
        preferences.main(tiny_config(), tmp_path / "killed")
    preferences.main(tiny_config(), tmp_path / "killed")
    assert steps == [4, 8, 8, 12] and rows_of(tmp_path / "killed") == rows_of(tmp_path / "alone")


ODD = "one\u2028two\u2029three\x85four 中"


def odd_candidates(*, seed):
    for place, record in enumerate(candidates(seed=seed)):
        yield record if place % 2 else record | {"responses": [ODD, "yes"]}


@pytest.mark.parametrize("lines", [6, 8])
def test_verdicts_are_read_whatever_the_responses_hold_and_wherever_the_file_was_cut(tmp_path, lines):
    """Cut inside of a character, in the middle of a batch and at its end."""
    config = tiny_config(candidates={"function": f"{__name__}:odd_candidates"})
    preferences.main(config, tmp_path)
    rows, whole = rows_of(tmp_path), (tmp_path / "verdicts.jsonl").read_bytes()
    assert ODD.encode() in whole and len(whole.split(b"\n")) == 13
    (tmp_path / "DONE").unlink()
    start = sum(len(line) + 1 for line in whole.split(b"\n")[:lines])
    (tmp_path / "verdicts.jsonl").write_bytes(whole[: whole.index("中".encode(), start) + 1])
    ASKED.clear()
    preferences.main(config, tmp_path)
    assert len(ASKED) == (4 if lines == 8 else 8)  # a batch that is not whole is asked for again
    assert (tmp_path / "verdicts.jsonl").read_bytes() == whole and rows_of(tmp_path) == rows


def test_a_line_that_is_no_verdict_is_named(tmp_path):
    (tmp_path / "verdicts.jsonl").write_bytes(b'{"messages": "\xe4\xb8"}\n')
    with pytest.raises(ValueError, match=r"verdicts.jsonl, line 1 is no verdict"):
        preferences.keep_whole_batches(tmp_path / "verdicts.jsonl", size=1, limit=4)


def test_a_judge_that_is_not_there_ends_the_run_and_keeps_what_was_done(tmp_path):
    with pytest.raises(ChatError, match="failed on all 16 queries: TimeoutError: 30 s"):
        preferences.main(tiny_config(options={"fails_at": 9}), tmp_path)
    assert len((tmp_path / "verdicts.jsonl").read_text().splitlines()) == 8 and not (tmp_path / "DONE").exists()


def test_a_set_without_a_clear_pair_is_named(tmp_path):
    one = {"function": f"{__name__}:candidates", "arguments": {"count": 1}}
    config = tiny_config(candidates=one, judge={"function": f"{__name__}:undecided"}, threshold=1.5)
    with pytest.raises(ValueError, match="no pair is left of 1 candidates.*'unclear': 1"):
        preferences.main(config, tmp_path)


def undecided(questions, first, second, *, chat, seed):
    return ["[[A=B]]"] * len(questions)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"queries": 0}, "^queries=0 must be at least 1"),
        ({"threshold": 2.0}, r"^threshold=2.0 must be in \[0, 2\)"),
        ({"candidates": {}}, r"^candidates\.path or function must be there, one of the two"),
        (
            {"candidates": {"function": "tests.tiny:nothing"}},
            r"^candidates\.function='tests.tiny:nothing'.* no 'nothing'",
        ),
        ({"judge": {"function": "tests.tiny:nothing"}}, r"^judge\.function='tests.tiny:nothing'.* no 'nothing'"),
        ({"judge": {"function": "a:b", "chat": {"kind": "oracle"}}}, r"^judge\.chat\.kind='oracle' must be one of"),
        ({"judge": {"function": "a:b", "tasks": ["math"]}}, r"^judge\.tasks: candidates are of no task"),
        ({"judgement": 1}, "^there is no key 'judgement'; near it: judge"),
    ],
)
def test_bad_configs_are_named_before_a_judge_is_asked(changes, words):
    with pytest.raises(ValueError, match=words):
        preferences.check(tiny_config(**changes))
