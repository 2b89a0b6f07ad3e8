import json
from collections import Counter

import pytest

from r1jax.data.record_source import check_records, records_of

TAKEN = Counter()


def counted(*, seed, count):
    for place in range(count):
        TAKEN["records"] += 1
        yield {"place": place, "seed": seed}


def test_files_and_functions_are_read_as_they_are_asked_for_and_places_named(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"n": n}) + "\n" for n in range(2)))
    first, second = records_of({"path": str(path)}, seed=0)
    assert first.values == {"n": 0} and "pairs.jsonl" in second.where and "row 2" in second.where
    rows = records_of({"function": f"{__name__}:counted", "arguments": {"count": 5}}, seed=3)
    assert next(rows).values == {"place": 0, "seed": 3} and TAKEN["records"] == 1
    assert next(rows).where == f"{__name__}:counted, record 2"


def test_a_part_of_a_folder(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"split": split}) + "\n")
    (row,) = records_of({"path": str(tmp_path), "split": "test"}, seed=0)
    assert row.values == {"split": "test"}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, "here: must have either 'path', or 'function'"),
        ({"path": "x", "function": "y:z"}, "here: must have either 'path', or 'function'"),
        ({"path": "x", "arguments": {}}, "here: 'arguments' does not go with 'path'"),
        ({"function": f"{__name__}:counted", "split": "a"}, "here: 'split' does not go with 'function'"),
        ({"function": f"{__name__}:missing"}, "has no 'missing'"),
        ({"path": "x", "subset": "a", "domain": "d"}, None),
    ],
)
def test_bad_specs_are_named(spec, words):
    if words is None:
        check_records(spec, where="here", required=("domain",))
        return
    with pytest.raises(ValueError, match=words):
        check_records(spec, where="here")
