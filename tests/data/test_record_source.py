import json
from collections import Counter

import pytest

from r1jax.data.records import check_records, records_of
from r1jax.specs.policy import SourceSpec
from r1jax.specs.reader import read

TAKEN = Counter()


def source(**fields):
    return read(SourceSpec, fields, "data")


def counted(*, seed, count):
    for place in range(count):
        TAKEN["records"] += 1
        yield {"place": place, "seed": seed}


def test_files_and_functions_are_read_as_they_are_asked_for_and_places_named(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"n": n}) + "\n" for n in range(2)))
    first, second = records_of(source(path=str(path)), seed=0)
    assert first.values == {"n": 0} and "pairs.jsonl" in second.where and "row 2" in second.where
    rows = records_of(source(function=f"{__name__}:counted", arguments={"count": 5}), seed=3)
    assert next(rows).values == {"place": 0, "seed": 3} and TAKEN["records"] == 1
    assert next(rows).where == f"{__name__}:counted, record 2"


def test_a_part_of_a_folder(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"split": split}) + "\n")
    (row,) = records_of(source(path=str(tmp_path), split="test"), seed=0)
    assert row.values == {"split": "test"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "data.path or function must be there"),
        ({"path": "x", "function": "y:z"}, "data.path or function must be there"),
        ({"path": "x", "arguments": {"count": 1}}, "data.arguments does not go with 'path'"),
        ({"function": f"{__name__}:counted", "split": "a"}, "data.split does not go with 'function'"),
        ({"function": f"{__name__}:missing"}, "^data.function='.*:missing': module '.*' has no 'missing'"),
        ({"function": "counted"}, "^data.function='counted' must have the form 'module:function'"),
    ],
)
def test_bad_specs_are_named(fields, words):
    with pytest.raises(ValueError, match=words):
        check_records(source(**fields), where="data")


def test_what_a_path_names_may_come_later():
    check_records(source(path="/not/there/yet", subset="a"), where="data")
    check_records(source(function=f"{__name__}:counted"), where="data")
