import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import ipc

from r1jax.tasks.sources.rows import Row, data_files, open_rows


def write(path, *questions):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"question": question} for question in questions]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".arrow":
        table = pa.Table.from_pylist(rows)
        with pa.OSFile(str(path), "wb") as sink, ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def questions(*args, **kwargs):
    rows = open_rows(*args, **kwargs)
    return [rows.row(place).values["question"] for place in range(len(rows))]


def save_to_disk(folder, split, *shards):
    """What ``datasets`` 4 writes for one split."""
    names = [f"data-{number:05d}-of-{len(shards):05d}.arrow" for number in range(len(shards))]
    for name, content in zip(names, shards, strict=True):
        write(folder / name, *content)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": split}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def test_a_hub_folder_gives_the_shards_of_a_split_in_order(tmp_path):
    write(tmp_path / "data/train-00001-of-00002.parquet", "c")
    write(tmp_path / "data/train-00000-of-00002.parquet", "a", "b")
    write(tmp_path / "data/test-00000-of-00001-0123abcd.parquet", "d")
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / "README.md").write_text("")
    assert questions(tmp_path, split="train") == ["a", "b", "c"]
    assert questions(tmp_path, split="test") == ["d"]
    with pytest.raises(ValueError, match="several splits; name one of them as 'split': test, train"):
        open_rows(tmp_path)
    with pytest.raises(ValueError, match="no split 'dev' in it; there are test, train"):
        open_rows(tmp_path, split="dev")
    rows = open_rows(tmp_path, split="train")
    assert rows.row(2).where.endswith("data/train-00001-of-00002.parquet, row 1")
    with pytest.raises(IndexError, match="row 3 of 3"):
        rows.row(3)


def test_subsets_are_told_apart(tmp_path):
    write(tmp_path / "main/train-00000-of-00001.parquet", "a")
    write(tmp_path / "socratic/train-00000-of-00001.parquet", "b")
    assert questions(tmp_path, subset="socratic") == ["b"]
    assert questions(tmp_path, subset="*") == ["a", "b"]
    with pytest.raises(ValueError, match="several subsets; name one of them as 'subset': main, socratic"):
        open_rows(tmp_path, split="train")


def test_other_layouts_of_the_hub(tmp_path):
    write(tmp_path / "converted/main/train/0000.parquet", "a")
    write(tmp_path / "converted/main/test/0000.parquet", "b")
    assert questions(tmp_path / "converted", subset="main", split="test") == ["b"]
    write(tmp_path / "flat/train.jsonl", "c")
    write(tmp_path / "flat/test.jsonl", "d")
    write(tmp_path / "flat/.cache/test.jsonl", "hidden")
    assert questions(tmp_path / "flat", split="test") == ["d"]
    write(tmp_path / "flat/test.parquet", "d")
    with pytest.raises(ValueError, match=r"split 'test' is there as \.jsonl and as \.parquet"):
        open_rows(tmp_path / "flat", split="test")


def test_saved_folders_of_datasets(tmp_path):
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    save_to_disk(tmp_path / "train", "train", ["a", "b"], ["c"])
    save_to_disk(tmp_path / "test", "test", ["d"])
    assert questions(tmp_path, split="train") == ["a", "b", "c"]
    assert questions(tmp_path / "test") == ["d"]
    with pytest.raises(ValueError, match="several splits.*train, test"):
        open_rows(tmp_path)
    with pytest.raises(ValueError, match="is of split 'test', not 'train'"):
        open_rows(tmp_path / "test", split="train")
    state = json.loads((tmp_path / "test/state.json").read_text())
    (tmp_path / "test/state.json").write_text(json.dumps(state | {"_indices_files": [{"filename": "x"}]}))
    with pytest.raises(ValueError, match="flatten_indices"):
        open_rows(tmp_path / "test")


def test_patterns_and_files(tmp_path):
    write(tmp_path / "test.jsonl", "a")
    write(tmp_path / "test2.jsonl", "b")
    assert questions(str(tmp_path / "test*.jsonl")) == ["a", "b"]
    assert data_files(tmp_path / "test2.jsonl") == [tmp_path / "test2.jsonl"]
    with pytest.raises(ValueError, match="are for folders"):
        open_rows(tmp_path / "test.jsonl", split="test")
    with pytest.raises(ValueError, match="nothing.jsonl: no such file or folder"):
        open_rows(tmp_path / "nothing.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no data files in it"):
        open_rows(tmp_path / "empty")
    for name in ("none.jsonl", "none.csv"):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=f"{name}: holds no rows"):
            open_rows(tmp_path / name)


def test_fields_are_checked_and_named():
    row = Row(
        {"a": " x ", "n": 3, "f": 2.0, "none": None, "blank": " ", "list": '["p", "q"]', "bad": "{", "half": 2.5},
        where="F, row 7",
    )
    assert (row.text("missing", "a"), row.text("n"), row.integer("f"), row.items("list")) == (" x ", "3", 2, ["p", "q"])
    assert (row.get("none", default=4), row.integer("n")) == (4, 3)
    for call, message in [
        (lambda: row.text("b", "c"), r"F, row 7: needs a field 'b' or 'c'; there are a, bad, blank"),
        (lambda: row.text("blank"), "F, row 7: field 'blank' must be a text that is not blank; it is ' '"),
        (lambda: row.text("b", "c", "d"), "F, row 7: needs a field 'b', 'c' or 'd'; there are a"),
        (lambda: row.text("none"), "F, row 7: field 'none' is missing; there are a"),
        (lambda: row.text("b", "blank"), "field 'blank' must be a text that is not blank"),
        (lambda: row.integer("b", "half"), "field 'half' must be a whole number"),
        (lambda: row.parsed("b", "bad"), "field 'bad' must be JSON"),
        (lambda: row.items("b", "n"), "field 'n' must be a list of str"),
        (lambda: row.integer("half"), "field 'half' must be a whole number; it is 2.5"),
        (lambda: row.integer("a"), "field 'a' must be a whole number"),
        (lambda: row.parsed("bad"), "field 'bad' must be JSON"),
        (lambda: row.items("n"), "field 'n' must be a list of str; it is 3"),
        (lambda: row.items("list", of=dict), "must be a list of dict"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_files_that_a_package_carries(tmp_path, monkeypatch):
    write(tmp_path / "own_package/data/rows.jsonl", "a")
    (tmp_path / "own_package/__init__.py").write_text("raise ImportError('must not be imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert questions("package:own_package/data/rows.jsonl") == ["a"]
    with pytest.raises(ValueError, match="rows2.jsonl: no such file"):
        open_rows("package:own_package/data/rows2.jsonl")
    with pytest.raises(ValueError, match="no package 'no_package' is installed; pip install --no-deps no-package"):
        open_rows("package:no_package/rows.jsonl")
