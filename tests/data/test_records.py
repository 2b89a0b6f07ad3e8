"""Records as a source: every kind of row, epochs in their own order, and errors that name file and row."""

import json

import pytest

from r1jax.data.records import RecordsMissingError, document_at, open_records
from r1jax.data.shards import write_records


def turns(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_every_kind_of_row(tmp_path):
    talk = [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    path = write(
        tmp_path / "set.jsonl",
        {"messages": turns("a", "b"), "more": 1},
        {"messages": json.dumps(turns("a", "b"))},
        {"conversations": talk},
        {"prompt": "a", "completion": "b"},
        {"prompt": "a", "response": "b", "messages": None},
    )
    found = [document_at(index, seed=0, path=path) for index in range(5)]
    assert sorted(found, key=len) == [turns("a", "b")] * 4 + [[{"role": "system", "content": "s"}, *turns("a", "b")]]


def test_what_a_message_says_besides_its_content_is_kept(tmp_path):
    asked, answered = turns("a", "b")
    row = {"messages": [asked | {"tool_calls": []}, answered | {"reasoning_content": "c", "index": 3}]}
    path = write(tmp_path / "set.jsonl", row)
    assert document_at(0, seed=0, path=path) == [asked, answered | {"reasoning_content": "c"}]


def test_an_epoch_is_every_record_once_in_an_order_of_its_own(tmp_path):
    path = write(tmp_path / "set.jsonl", *({"prompt": str(n), "completion": "b"} for n in range(20)))

    def epoch(number, seed=0):
        return [document_at(20 * number + place, seed=seed, path=path)[0]["content"] for place in range(20)]

    first, second = epoch(0), epoch(1)
    assert sorted(first) == sorted(second) == sorted(map(str, range(20)))
    assert len({tuple(first), tuple(second), tuple(epoch(0, seed=1)), tuple(map(str, range(20)))}) == 4
    assert epoch(0) == first and len(open_records(path)) == 20


def test_the_work_directory_of_a_stage_is_read_when_it_is_done(tmp_path):
    with pytest.raises(RecordsMissingError, match="no such folder"):
        open_records(tmp_path / "stage")
    stage = tmp_path / "stage"
    stage.mkdir()
    (stage / "config.json").write_text("{}")
    with pytest.raises(RecordsMissingError, match=f"{stage}: is not the work directory of a finished stage"):
        open_records(stage)
    (stage / "DONE").touch()
    with pytest.raises(ValueError, match=f"{stage}: .* made no records: it has no data/"):
        open_records(stage)
    record = {"messages": turns("a", "b"), "domain": "d", "task": None, "rounds": 1, "num_tokens": 2, "provenance": {}}
    for file_format in ("jsonl", "parquet"):
        write_records([record] * 3, stage / "data", file_format=file_format, records_per_shard=2)
        assert len(open_records(str(stage))) == 3
        assert document_at(2, seed=0, path=str(stage)) == turns("a", "b")


def test_a_set_that_is_written_anew_is_read_anew(tmp_path):
    path = write(tmp_path / "set.jsonl", {"prompt": "a", "completion": "b"})
    assert len(open_records(path)) == 1
    write(tmp_path / "set.jsonl", *[{"prompt": "a", "completion": "b"}] * 2)
    assert len(open_records(path)) == 2


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "a"}, "row 1: field 'prompt' is missing"),
        ({"prompt": "a"}, "row 1: needs a field 'completion' or 'response'; there are prompt"),
        (
            {"messages": turns("a", "b")[:1]},
            "'messages' must be a conversation that the assistant ends; its roles are user",
        ),
        ({"messages": []}, "its roles are none"),
        ({"messages": "{}"}, "'messages' must be a list of messages; it is a dict"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "a known 'role' and a text 'content'"),
        ({"messages": [{"role": "user", "content": None}]}, "a known 'role' and a text 'content'"),
        ({"conversations": [["human", "a"]]}, "a known 'from' and a text 'value'"),
    ],
)
def test_a_row_that_is_no_conversation_is_named(tmp_path, row, words):
    path = write(tmp_path / "set.jsonl", row)
    with pytest.raises(ValueError, match=words) as caught:
        document_at(0, seed=0, path=path)
    assert path in str(caught.value)


def test_a_file_that_is_not_there_is_an_error_at_once(tmp_path):
    with pytest.raises(ValueError, match="none.jsonl: no such file"):
        open_records(tmp_path / "none.jsonl")
