import csv
import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import ipc

from r1jax.tasks.sources.readers import open_reader

CORRUPT = gzip.compress(b"a", mtime=0)[:10] + b"\xff" * 20
ROWS = [{"question": f"Wie viel ist {n} + {n}?\n那么?", "answer": str(2 * n)} for n in range(600)]


def write_jsonl(path):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n", encoding="utf-8")


def write_csv(path):
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(ROWS)


def write_arrow(path, *, form=ipc.new_stream):
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, form(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)


WRITERS = {
    "rows.jsonl": write_jsonl,
    "rows.json": lambda path: path.write_text(json.dumps(ROWS), encoding="utf-8"),
    "rows.csv": write_csv,
    "rows.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=70),
    "rows.arrow": write_arrow,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows_in_any_order(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    reader = open_reader(path)
    assert len(reader) == 600
    for place in (599, 0, 69, 70, 257, 256, 0):
        assert reader.read(place) == ROWS[place]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_packed_files_are_read_like_others(tmp_path, name):
    WRITERS[name](tmp_path / name)
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    reader = open_reader(packed)
    assert len(reader) == 600
    assert [reader.read(place) for place in (3, 599)] == [ROWS[3], ROWS[599]]


def test_arrow_files_in_file_form_are_read_too(tmp_path):
    write_arrow(tmp_path / "rows.arrow", form=ipc.new_file)
    assert open_reader(tmp_path / "rows.arrow").read(599) == ROWS[599]


def test_nested_parquet_columns_come_as_lists_and_dicts(tmp_path):
    rows = [{"tests": [{"input": "1", "output": "2"}], "kwargs": None}, {"tests": [], "kwargs": {"n": 3}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    reader = open_reader(tmp_path / "rows.parquet")
    assert [reader.read(place) for place in range(2)] == rows


def test_nothing_is_left_in_the_temporary_folder_and_no_file_stays_open(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress((tmp_path / "rows.jsonl").read_bytes()))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    reader = open_reader(tmp_path / "rows.jsonl.gz")
    assert os.listdir(temporary) == []
    assert reader.read(599) == ROWS[599]


def test_json_may_be_an_object_around_the_list(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"version": "1", "count": 1, "cases": [{"question": "a"}]}))
    assert open_reader(path).read(0) == {"question": "a"}
    path.write_text(json.dumps({"train": [{"question": "a"}], "test": [{"question": "b"}]}))
    with pytest.raises(ValueError, match="one such list; it has train, test"):
        open_reader(path)


def test_csv_without_a_header_takes_the_given_names(tmp_path):
    path = tmp_path / "algebra_test.csv"
    path.write_text('"What, then?",1,2,3,4,B\n"Two\nlines",5,6,7,8,A\n')
    header = ("question", "A", "B", "C", "D", "answer")
    reader = open_reader(path, csv_header=header)
    assert len(reader) == 2
    assert reader.read(0) == dict(zip(header, ("What, then?", "1", "2", "3", "4", "B"), strict=True))
    path.write_text(f"{','.join(header)}\n\nq,1,2,3,4,B\n")
    reader = open_reader(path, csv_header=header)
    assert (len(reader), reader.read(0)["answer"]) == (1, "B")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b'{"a": 1}\n{"a": \n', r"rows.jsonl, line 2, column 6: no JSON: Expecting value$"),
        ("rows.jsonl", b'{"a": 1}\n\n\n{"a" 2}\n', r"rows.jsonl, line 4, column 6: no JSON: Expecting ':' delimiter$"),
        ("rows.jsonl", b'{"a": 1}\n[1]\n', r"rows.jsonl, row 2: must be a JSON object; it is a list"),
        ("rows.jsonl", b'{"a": 1}\n"\xff"\n', r"rows.jsonl, line 2, byte 2: no JSON: not in utf-8"),
        ("rows.json", b"[1, 2", r"rows.json: no JSON"),
        ("rows.csv", b"a,b\n1,2\n3\n", r"rows.csv, row 2: has 1 values for 2 columns \(a, b\)"),
        ("rows.csv", b'a,b\n1,"2" 3\n', r"rows.csv, row 1: line 2: "),
        ("rows.csv", b'a,"b" c\n1,2\n', r"rows.csv, line 1: "),
        ("rows.csv", b"a,b\n1,2\n\xff,3\n", r"rows.csv, row 2: field 'a' holds \\udcff, half of a character"),
        ("rows.parquet", b"PAR1 no", r"rows.parquet: cannot be read"),
        ("rows.arrow", b"", r"rows.arrow: cannot be read"),
        ("rows.jsonl.gz", b"no gzip", r"rows.jsonl.gz: cannot be read"),
        ("rows.jsonl.gz", CORRUPT, r"rows.jsonl.gz: cannot be read: Error -3 while decompressing data"),
        ("rows.json", b"[" * 100_000, r"rows.json: cannot be read: maximum recursion depth exceeded"),
        ("rows.csv", b"a,b,a\n1,2,3\n", r"rows.csv: two columns are named 'a'"),
        ("rows.jsonl", rb'{"a": "\ud83d\ude00"} {', r"rows.jsonl, line 1, column 23: no JSON"),
        (
            "rows.jsonl",
            rb'{"a": 1, "b": {"c": ["x\uD800"]}}',
            r"rows.jsonl, row 1: field 'b' holds \\ud800, half of a char",
        ),
        ("rows.jsonl", rb'{"\udc00": 1}', r"rows.jsonl, row 1: field '\\udc00' holds \\udc00"),
        ("rows.json", rb'[{"a": "\ud800"}]', r"rows.json, row 1: field 'a' holds \\ud800"),
        ("rows.txt", b"", r"rows.txt: format not known by its ending; known are jsonl"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        reader = open_reader(tmp_path / name)
        [reader.read(place) for place in range(len(reader))]


def test_a_character_of_two_halves_is_a_text(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(rb'{"a": "\ud83d\ude00", "b": "\\\\ud800"}')
    assert open_reader(tmp_path / "rows.jsonl").read(0) == {"a": "\N{GRINNING FACE}", "b": r"\\ud800"}


def test_columnar_files_with_two_columns_of_one_name_are_refused(tmp_path):
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"rows.parquet: two columns are named 'a'"):
        open_reader(tmp_path / "rows.parquet")


def test_a_large_file_is_not_held_in_memory(tmp_path):
    """Reads single rows of a file whose rows would be 64 MB as Python texts, within 8 MB."""
    import tracemalloc

    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for number in range(64):
            file.write(json.dumps({"n": number, "text": "x" * 2**20}) + "\n")
    tracemalloc.start()
    reader = open_reader(path)
    assert [reader.read(place)["n"] for place in (63, 0, 31)] == [63, 0, 31]
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()
