import json
import re

from r1jax.report import completions as module
from r1jax.report import write_report
from r1jax.report.completions import write_completions
from r1jax.workdir.read import read_run
from tests.report.synthetic import completion_rows, make_rl_stage, write_lines


def load(path):
    """What a file calls its function with."""
    text = path.read_text(encoding="ascii")
    match = re.fullmatch(r"(?:index\(|chunk\(\"[0-9]_(?:update|heldout)_\d+_\d+.js\", )(.*)\);\n", text)
    assert match and "<" not in text
    return json.loads(match[1])


def written(folder, stage, **others):
    """(index, chunks) of what is written of a stage."""
    count, notes = write_completions({"run": read_run(stage).stages[0]} | others, folder)
    index = load(folder / "index.js")
    chunks = [load(folder / name) for name in index["files"]]
    assert len(list(folder.iterdir())) == len(chunks) + 1
    assert sum(len(chunk["rows"]) for chunk in chunks) == count == len(index["columns"]["run"])
    return index, chunks, notes


def test_every_completion_is_there_with_what_it_is_filtered_by(tmp_path):
    index, chunks, notes = written(tmp_path / "data", make_rl_stage(tmp_path / "rl", updates=20))
    columns = index["columns"]
    assert len(columns["run"]) == 4 * 8 and notes == [] and index["starts"] == [0, 8, 16, 24]
    assert index["files"][1:3] == ["0_heldout_000020_0.js", "0_update_000001_0.js"]
    assert list(zip(columns["split"], columns["step"], strict=True))[::8] == [(0, 1), (0, 20), (1, 1), (1, 20)]
    assert columns["problem"][:16] == [0, 0, 1, 1, 2, 2, 3, 3] * 2  # the same held-out problems, before and after
    assert columns["problem"][16:] == [4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11]
    assert columns["reward"][:2] == [2, 1] and columns["correct"][:2] == [1, 0] and columns["words"][8] == 3
    assert index["titles"][0] == ["pair_sum", "27 + 45 = ?", "72"] and set(columns["script"]) == {3}
    assert chunks[0]["questions"][0] == ["27 + 45 = ?", '{"answer": "72", "task": "pair_sum"}']
    assert chunks[0]["rows"][0]["rewards"] == {"accuracy": 1.0, "format": 1.0}
    assert index["runs"] == [{"label": "run", "weights": {"accuracy_reward": 1.0}, "unit": "update"}]


def test_what_failed_or_was_dropped_is_flagged(tmp_path):
    rows = completion_rows(3, "train", late=True)
    rows[0] |= {"errors": {"accuracy": "TimeoutError: 5 s"}, "reward": None, "dropped": True}
    write_lines(tmp_path / "rl" / "completions" / "update_000003.jsonl", rows)
    index, chunks, _ = written(tmp_path / "data", tmp_path / "rl")
    assert index["columns"]["flags"] == [3] + [0] * 7 and index["columns"]["reward"][0] is None
    assert chunks[0]["rows"][0]["errors"] == {"accuracy": "TimeoutError: 5 s"}


def test_hostile_rows_are_data_or_left_out(tmp_path):
    hostile = "<script>alert(1)</script></pre><img src=x onerror=y>\x00\ud800\u202e\u2028" + "<" * 5000
    rows = [
        {"problem": {"task": hostile, "answer": hostile}, "prompt": hostile, "completion": hostile, "reward": hostile}
        | {"rewards": {hostile: None}, "advantage": hostile, "num_tokens": hostile, "correct": hostile},
        {"problem": {}, "completion": "", "correct": True, "rewards": [1], "reward": 10**400},
        {"problem": {"task": ["x"]}, "prompt": 5, "completion": "fine", "stop_reason": ["length"]},
        {"problem": None, "completion": "no problem"},
        {"completion": None},
        {},
    ]
    write_lines(tmp_path / "rl" / "completions" / "update_000003.jsonl", rows)
    (tmp_path / "rl" / "completions" / "heldout_000001.jsonl").write_text("")
    index, chunks, _ = written(tmp_path / "data", tmp_path / "rl")
    assert chunks[0]["rows"][0]["completion"] == hostile
    assert index["columns"]["correct"] == [None, 1, None] and index["columns"]["reward"] == [None] * 3
    assert [len(text) for text in index["titles"][0]] == [90, 90, 90]


def test_long_files_are_cut_into_chunks_and_of_too_many_every_kth_is_shown(tmp_path, monkeypatch):
    stage = tmp_path / "rl"
    for step in range(1, 10):
        write_lines(stage / "completions" / f"update_{step:06d}.jsonl", completion_rows(step, "train", late=True))
    monkeypatch.setattr(module, "_CHUNK_CHARACTERS", 300)
    index, _, _ = written(tmp_path / "data", stage)
    assert index["starts"][:4] == [0, 3, 6, 8] and len(index["starts"]) == 27
    size = sum(path.stat().st_size for path in (stage / "completions").iterdir())
    monkeypatch.setattr(module, "_MAX_BYTES", size / 2.5)
    index, _, notes = written(tmp_path / "data", stage)  # and the files of before are gone
    assert sorted(set(index["columns"]["step"])) == [1, 4, 7, 9]
    assert notes == ["rl: 4 of 9 files of train completions are shown."]


def test_scripts_of_others_in_the_folder_stay(tmp_path):
    stage = make_rl_stage(tmp_path / "rl", updates=2)
    written(tmp_path / "data", stage)
    (tmp_path / "data" / "mine.js").write_text("alert()")
    for path in (stage / "completions").iterdir():
        path.unlink()
    assert write_completions({"run": read_run(stage).stages[0]}, tmp_path / "data") == (0, [])
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mine.js"]


def test_without_completions_there_is_no_folder(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "loss": 1.0}])
    path = write_report(tmp_path)
    assert [child.name for child in tmp_path.iterdir() if child.is_dir()] == []
    assert 'id="completions"' not in path.read_text()
