import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from r1jax.workdir.directory import (
    WorkdirError,
    changed_code,
    from_here,
    open_workdir,
    read_lines,
    read_summary,
    to_here,
    write_text,
)

REPOSITORY = Path(__file__).parents[2]

CONFIG = {"seed": 1, "optimizer": {"learning_rate": 1e-3, "betas": (0.9, 0.95)}, "name": "中", "empty": {}}


def touch(path, config=CONFIG):
    """Opens and closes."""
    with open_workdir(path, config):
        pass


def test_new_then_the_same_again(tmp_path):
    path = tmp_path / "runs" / "zero"
    with open_workdir(path, CONFIG) as run:
        assert run.path == path and read_summary(path, CONFIG) is None
    assert json.loads((path / "config.json").read_text())["optimizer"] == {"learning_rate": 1e-3, "betas": [0.9, 0.95]}
    environment = json.loads((path / "environment.json").read_text())
    assert environment["versions"]["jax"] and environment["python"].startswith("3.")
    assert environment["devices"]["platform"] == "cpu" and environment["devices"]["count"] >= 1
    with open_workdir(path, CONFIG) as run:
        run.mark_done({"after": {"pass@1": 0.8}})
    assert read_summary(path, CONFIG) == json.loads((path / "summary.json").read_text()) == {"after": {"pass@1": 0.8}}
    assert read_summary(path, CONFIG | {"seed": 2}) is None
    (path / "summary.json").write_text('{"after": ')
    assert read_summary(path, CONFIG) is None  # damaged: the stage runs again
    assert not list(path.glob(".*")), "temporary files stay behind"


def test_lines_end_at_line_feeds_alone_and_a_cut_one_is_left_out(tmp_path):
    assert read_lines(tmp_path / "rows.jsonl") == []
    text = "one\u2028two\x85\n\nthree\r\n中".encode()
    (tmp_path / "rows.jsonl").write_bytes(text[:-1])
    assert read_lines(tmp_path / "rows.jsonl") == ["one\u2028two\x85".encode(), b"", b"three\r"]


def test_another_config_names_the_keys(tmp_path):
    touch(tmp_path)
    other = {"seed": 2, "optimizer": {"learning_rate": 1e-3, "betas": [0.9, 0.99], "eps": 1e-8}, "name": "中"}
    with pytest.raises(WorkdirError) as error:
        touch(tmp_path, other)
    assert str(error.value).splitlines()[1:] == [
        "  empty: {} there, '(absent)' now",
        "  optimizer.betas: [0.9, 0.95] there, [0.9, 0.99] now",
        "  optimizer.eps: '(absent)' there, 1e-08 now",
        "  seed: 1 there, 2 now",
    ]
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1


def test_damaged_config(tmp_path):
    touch(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WorkdirError, match=r"config\.json is damaged"):
        touch(tmp_path)


def test_config_that_is_no_json(tmp_path):
    with pytest.raises(TypeError, match=r"config key 'reward\.function' cannot be written as JSON"):
        touch(tmp_path / "new", {"reward": {"function": len}})
    assert not (tmp_path / "new").exists()


def test_a_path_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(WorkdirError, match="cannot write the work directory"):
            touch(path)


def test_unwritable_directory(tmp_path, monkeypatch):
    def refuse(path, text):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(
        "r1jax.workdir.directory.write_text", refuse
    )  # root may write anywhere, so chmod proves nothing
    with pytest.raises(WorkdirError, match="cannot write the work directory: .*Permission denied"):
        touch(tmp_path)


def test_nearly_full_disk(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 10**8, 10**8)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with open_workdir(tmp_path, CONFIG) as run:
        run.require_space(30 * 10**6)
        with pytest.raises(WorkdirError, match=f"{tmp_path}: needs 117 MB, 100 MB are free on its disk"):
            run.require_space(50 * 10**6)  # and 67 MB beside the checkpoints
    usage = usage._replace(free=5 * 10**6)
    with pytest.raises(WorkdirError, match="needs 67 MB, 5 MB are free"):
        touch(tmp_path)


def test_a_second_run_is_refused_while_the_first_writes(tmp_path):
    with open_workdir(tmp_path, CONFIG):
        with pytest.raises(
            WorkdirError, match=f"{tmp_path} is in use by process {os.getpid()} on .*; start again when"
        ):
            touch(tmp_path)
        touch(tmp_path / "other")
    touch(tmp_path)
    with pytest.raises(ZeroDivisionError), open_workdir(tmp_path, CONFIG):
        raise ZeroDivisionError
    touch(tmp_path)


def test_the_lock_goes_with_a_killed_process(tmp_path):
    script = (
        "import sys, time\nfrom r1jax.workdir.directory import open_workdir\n"
        "with open_workdir(sys.argv[1], {'seed': 1}):\n    print('open', flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout and other.stdout.readline() == "open\n"
        with pytest.raises(WorkdirError, match=f"in use by process {other.pid} on"):
            touch(tmp_path, {"seed": 1})
        other.kill()
    touch(tmp_path, {"seed": 1})


def test_a_file_system_without_locks_gets_a_warning(tmp_path, monkeypatch, capsys):
    def refuse(file, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    touch(tmp_path)
    assert f"warning: {tmp_path} cannot be locked" in capsys.readouterr().err


def test_only_the_first_of_several_processes_locks(tmp_path, monkeypatch):
    with open_workdir(tmp_path, CONFIG):
        monkeypatch.setattr("jax.process_index", lambda: 1)
        touch(tmp_path)


def test_paths_from_here_survive_a_move(tmp_path):
    old, new = tmp_path / "runs", tmp_path / "elsewhere" / "runs"
    assert to_here(old / "base", old / "zero" / "rl") == "{here}/../../base"
    config = {"init": {"path": to_here(old / "base", old / "zero" / "rl")}, "list": [("{here}/x", "a{here}/")]}
    absolute = {"init": {"path": f"{old}/base"}, "list": [(f"{old}/zero/rl/x", "a{here}/")]}
    assert from_here(config, old / "zero" / "rl") == absolute
    touch(old / "zero" / "rl", config)
    touch(old / "zero" / "rl", absolute)  # the same
    shutil.move(old, tmp_path / "elsewhere" / "runs")
    touch(new / "zero" / "rl", config)
    with pytest.raises(WorkdirError, match=rf"init.path: '{new}/base' there, '{old}/base' now"):
        touch(new / "zero" / "rl", absolute)


def test_code_that_changed_since_the_latest_start(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "judge.py").write_text("def score(): return 1")
    config = {"rewards": [{"function": "judge:score"}]}
    workdir = tmp_path / "w"
    assert changed_code(workdir, config) == []  # nothing was started there
    touch(workdir, config)
    assert changed_code(workdir, config) == []
    (tmp_path / "judge.py").write_text("def score(): return 2")
    assert changed_code(workdir, config) == ["judge"]
    touch(workdir, config)
    assert changed_code(workdir, config) == []


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old"
