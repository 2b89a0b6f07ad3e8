import json
import shutil
from collections import namedtuple

import pytest

from r1jax.training.workdir import WorkdirError, open_workdir, write_text

CONFIG = {"seed": 1, "optimizer": {"learning_rate": 1e-3, "betas": (0.9, 0.95)}, "name": "中", "empty": {}}


def test_new_then_the_same_again(tmp_path):
    path = tmp_path / "runs" / "zero"
    run = open_workdir(path, CONFIG)
    assert run.path == path and not run.is_done()
    assert json.loads((path / "config.json").read_text())["optimizer"] == {"learning_rate": 1e-3, "betas": [0.9, 0.95]}
    environment = json.loads((path / "environment.json").read_text())
    assert environment["versions"]["jax"] and environment["python"].startswith("3.")
    assert environment["devices"]["platform"] == "cpu" and environment["devices"]["count"] >= 1
    open_workdir(path, CONFIG).mark_done({"after": {"pass@1": 0.8}})
    assert open_workdir(path, CONFIG).is_done()
    assert json.loads((path / "summary.json").read_text()) == {"after": {"pass@1": 0.8}}
    assert not list(path.glob(".*")), "temporary files stay behind"


def test_another_config_names_the_keys(tmp_path):
    open_workdir(tmp_path, CONFIG)
    other = {"seed": 2, "optimizer": {"learning_rate": 1e-3, "betas": [0.9, 0.99], "eps": 1e-8}, "name": "中"}
    with pytest.raises(WorkdirError) as error:
        open_workdir(tmp_path, other)
    assert str(error.value).splitlines()[1:] == [
        "  empty: {} there, '(absent)' now",
        "  optimizer.betas: [0.9, 0.95] there, [0.9, 0.99] now",
        "  optimizer.eps: '(absent)' there, 1e-08 now",
        "  seed: 1 there, 2 now",
    ]
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1


def test_damaged_config(tmp_path):
    open_workdir(tmp_path, CONFIG)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WorkdirError, match=r"config\.json is damaged"):
        open_workdir(tmp_path, CONFIG)


def test_config_that_is_no_json(tmp_path):
    with pytest.raises(TypeError, match=r"config key 'reward\.function' cannot be written as JSON"):
        open_workdir(tmp_path / "new", {"reward": {"function": len}})
    assert not (tmp_path / "new").exists()


def test_a_path_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(WorkdirError, match="cannot write the work directory"):
            open_workdir(path, CONFIG)


def test_unwritable_directory(tmp_path, monkeypatch):
    def refuse(path, text):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("r1jax.training.workdir.write_text", refuse)  # root may write anywhere, so chmod proves nothing
    with pytest.raises(WorkdirError, match="cannot write the work directory: .*Permission denied"):
        open_workdir(tmp_path, CONFIG)


def test_nearly_full_disk(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 5 * 10**6, 5 * 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(WorkdirError, match="5 MB free on its disk, the run needs at least 64 MB"):
        open_workdir(tmp_path, CONFIG, need_bytes=64 * 10**6)
    open_workdir(tmp_path, CONFIG, need_bytes=10**6)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old"
