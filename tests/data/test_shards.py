"""What is written: no duplicates, no test questions, whole shards with their digests, and the table."""

import collections
import hashlib
import json

import pytest

from r1jax.data.shards import as_markdown, unshared, write_records
from r1jax.tasks.decontaminate import NgramIndex
from r1jax.tasks.sources.rows import open_rows


def record(question, answer, *, domain="Math", tokens=10, rounds=1):
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        "domain": domain, "task": None, "rounds": rounds, "num_tokens": tokens, "provenance": {"prompt": 1},
    }  # fmt: skip


def test_duplicates_and_test_questions_are_left_out_and_counted():
    words = "the quick brown fox jumps over the lazy dog today"
    index = NgramIndex({"AIME": [f"Why does {words}?"]})
    records = [
        record("a", "b"),
        record("a", "b  "),  # white space does not count
        record("a", "c"),
        record(f"Say, {words}", "d"),
        record("e", f"So {words.upper()}."),  # answers are looked at too
        record("e", words.replace("today", "now")),  # nine words
    ]
    rejected = collections.Counter({"wrong answer": 2})
    kept = list(unshared(records, index=index, rejected=rejected))
    assert kept == [records[0], records[2], records[5]]
    assert rejected == {"wrong answer": 2, "duplicate": 1, "shared with AIME": 2}
    assert len(list(unshared(records, rejected=collections.Counter()))) == 5


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_shards_manifest_and_table(tmp_path, file_format):
    records = [record(str(n), "b", domain="Math" if n else "General", tokens=n, rounds=2 - n % 2) for n in range(5)]
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train-00000-of-00009.jsonl").write_text("old")
    written = write_records(iter(records), folder, file_format=file_format, records_per_shard=2)
    names = [f"train-0000{n}-of-00003.{file_format}" for n in range(3)]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert [written["files"][name]["records"] for name in names] == [2, 2, 1]
    for name in names:
        assert written["files"][name]["sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    rows = open_rows(folder)
    read = [rows.row(place).values for place in range(5)]
    if file_format == "parquet":
        read = [row | {"provenance": json.loads(row["provenance"])} for row in read]
    assert read == records
    assert written["table"] == [
        {"domain": "Math", "samples": 4, "rounds": 1.5, "tokens": 2.5},
        {"domain": "General", "samples": 1, "rounds": 2.0, "tokens": 0.0},
        {"domain": "Total", "samples": 5, "rounds": 1.6, "tokens": 2.0},
    ]
    assert "| Math | 4 | 1.5 | 2.5 |\n| General | 1 | 2.0 | 0.0 |\n| Total | 5 | 1.6 | 2.0 |\n" in as_markdown(
        written["table"]
    )


def test_the_same_records_give_the_same_bytes_and_a_crash_leaves_the_old_set(tmp_path):
    def failing():
        yield record("a", "b")
        raise KeyboardInterrupt

    first = write_records([record("a", "b")], tmp_path / "data", file_format="jsonl", records_per_shard=1)
    with pytest.raises(KeyboardInterrupt):
        write_records(failing(), tmp_path / "data", file_format="jsonl", records_per_shard=1)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["train-00000-of-00001.jsonl"]
    assert write_records([record("a", "b")], tmp_path / "data", file_format="jsonl", records_per_shard=1) == first
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_nothing_at_all_is_a_table_of_zeros(tmp_path):
    written = write_records([], tmp_path / "data", file_format="jsonl", records_per_shard=1)
    assert written == {"files": {}, "table": [{"domain": "Total", "samples": 0, "rounds": 0.0, "tokens": 0.0}]}
