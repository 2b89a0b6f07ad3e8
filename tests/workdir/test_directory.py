import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from r1jax.specs.fields import PathText, option
from r1jax.specs.reader import read
from r1jax.specs.stages import RlSpec, SupervisedSpec
from r1jax.specs.training import MeshSpec
from r1jax.workdir.directory import (
    WorkdirError,
    changed_code,
    check_same_config,
    from_here,
    mark_done,
    open_workdir,
    read_lines,
    read_summary,
    require_space,
    to_here,
    write_text,
)

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    learning_rate: float = option(1e-3)
    betas: tuple[float, ...] = option((0.9, 0.95))


@dataclass(frozen=True, kw_only=True)
class Spec:
    seed: int = option(1)
    optimizer: Optimizer = option(factory=Optimizer)
    name: str = option("中")
    arguments: dict[str, Any] = option(factory=dict)
    inputs: tuple[PathText, ...] = option(())
    workers: int = option(8, how=True)


SPEC = Spec()


def touch(path, spec=SPEC):
    """Opens and closes."""
    with open_workdir(path, spec):
        pass


def reach(path, step):
    """What a run leaves that has saved a checkpoint."""
    (path / "checkpoints" / str(step)).mkdir(parents=True)


def finish(path, spec, step):
    with open_workdir(path, spec):
        reach(path, step)
        mark_done(path, {"updates": step})


def changes(path):
    return [json.loads(line) for line in (path / "changes.jsonl").read_text().splitlines()]


def rl(**values):
    init = {"kind": "hf", "path": "/models/a"}
    rest = {"tasks": [{"kind": "mini", "name": "pair_sum"}], "rewards": [{"function": "a:b"}]}
    return read(RlSpec, {"stage": "rl", "init": init, "num_updates": 10} | rest | values)


def supervised(**values):
    init, data = {"kind": "hf", "path": "/models/a"}, {"path": "/data/a"}
    return read(SupervisedSpec, {"stage": "supervised", "init": init, "data": data} | values)


def test_new_then_the_same_again(tmp_path):
    path = tmp_path / "runs" / "zero"
    with open_workdir(path, SPEC) as run:
        assert run == path and read_summary(path, SPEC) is None
    assert json.loads((path / "config.json").read_text())["optimizer"] == {"learning_rate": 1e-3, "betas": [0.9, 0.95]}
    environment = json.loads((path / "environment.json").read_text())
    assert environment["versions"]["jax"] and environment["python"].startswith("3.")
    assert environment["devices"]["platform"] == "cpu" and environment["devices"]["count"] >= 1
    with open_workdir(path, SPEC):
        mark_done(path, {"after": {"pass@1": 0.8}})
    assert read_summary(path, SPEC) == json.loads((path / "summary.json").read_text()) == {"after": {"pass@1": 0.8}}
    assert read_summary(path, Spec(seed=2)) is None
    (path / "summary.json").write_text('{"after": ')
    assert read_summary(path, SPEC) is None  # damaged: the stage runs again
    (path / "summary.json").write_text("[]")
    assert read_summary(path, SPEC) is None
    assert not list(path.glob(".*")), "temporary files stay behind"


def test_lines_end_at_line_feeds_alone_and_a_cut_one_is_left_out(tmp_path):
    assert read_lines(tmp_path / "rows.jsonl") == []
    text = "one\u2028two\x85\n\nthree\r\n中".encode()
    (tmp_path / "rows.jsonl").write_bytes(text[:-1])
    assert read_lines(tmp_path / "rows.jsonl") == ["one\u2028two\x85".encode(), b"", b"three\r"]


def test_another_config_names_the_keys(tmp_path):
    touch(tmp_path)
    reach(tmp_path, 5)
    other = Spec(seed=2, optimizer=Optimizer(betas=(0.9,)), arguments={"a": {}}, workers=4)
    for refuses in (touch, check_same_config):
        with pytest.raises(WorkdirError, match="holds a run of another config") as error:
            refuses(tmp_path, other)
        assert str(error.value).splitlines()[1:] == [
            "  arguments: {} there, (absent) now",
            "  arguments.a: (absent) there, {} now",
            "  optimizer.betas[1]: 0.95 there, (absent) now",
            "  seed: 1 there, 2 now",
        ]
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1
    assert not (tmp_path / "changes.jsonl").exists()
    config = json.loads((tmp_path / "config.json").read_text())
    write_text(
        tmp_path / "config.json", json.dumps(config | {"gone": 3})
    )  # of another version: no spec can be read of it
    with pytest.raises(WorkdirError, match=r"\n  gone: 3 there, \(absent\) now$"):
        touch(tmp_path)


def test_goes_on_with_other_settings(tmp_path, capsys):
    path = tmp_path / "zero"
    touch(path, rl())
    reach(path, 4)
    capsys.readouterr()
    other = rl(mesh={"data": 2}, rollout_mesh={"tensor": 2}, keep_checkpoints=5)
    check_same_config(path, other)
    touch(path, other)
    line, *more = capsys.readouterr().out.splitlines()
    assert line.startswith(
        "zero goes on with other settings: keep_checkpoints 2 -> 5, mesh.data 1 -> 2, rollout_mesh None"
    )
    assert not more
    (change,) = changes(path)
    assert change["update"] == 4 and change["time"].startswith("20") and change["changes"]["mesh.data"] == [1, 2]
    assert json.loads((path / "config.json").read_text())["keep_checkpoints"] == 5
    touch(path, other)
    touch(path, rl(mesh={"data": 2}, keep_checkpoints=5))
    assert [len(change["changes"]) for change in changes(path)] == [len(change["changes"]), len(change["changes"]) - 2]
    with pytest.raises(WorkdirError, match=r"\n  group_size: 16 there, 8 now$"):
        touch(path, rl(group_size=8, keep_checkpoints=1))


def test_a_done_run_stays_done_with_other_settings_and_not_with_more_updates(tmp_path):
    finish(tmp_path, rl(), 10)
    assert read_summary(tmp_path, rl()) == read_summary(tmp_path, rl(mesh={"data": 2})) == {"updates": 10}
    touch(tmp_path, rl(mesh={"data": 2}))
    assert read_summary(tmp_path, rl()) == {"updates": 10}
    assert read_summary(tmp_path, rl(group_size=8)) is None
    longer = rl(num_updates=20)
    assert read_summary(tmp_path, longer) is None
    touch(tmp_path, longer)
    assert read_summary(tmp_path, longer) is None and read_summary(tmp_path, rl()) is None
    assert (tmp_path / "summary.json").exists()
    assert changes(tmp_path)[-1]["changes"] == {"mesh.data": [2, 1], "num_updates": [10, 20]}
    assert changes(tmp_path)[-1]["update"] == 10


def test_fewer_updates_than_are_done_are_refused(tmp_path):
    touch(tmp_path, rl(num_updates=100))
    reach(tmp_path, 40)
    reach(tmp_path, 50)
    (tmp_path / "checkpoints" / "60.orbax-checkpoint-tmp-1").mkdir()
    for refuses in (touch, check_same_config):
        with pytest.raises(WorkdirError, match=f"^{tmp_path}: num_updates=49 is fewer than the 50 that are done$"):
            refuses(tmp_path, rl(num_updates=49))
    touch(tmp_path, rl(num_updates=50))
    finish(tmp_path / "done", rl(), 10)
    assert read_summary(tmp_path / "done", rl(num_updates=9)) is None
    with pytest.raises(WorkdirError, match="num_updates=9 is fewer than the 10"):
        touch(tmp_path / "done", rl(num_updates=9))
    shutil.rmtree(tmp_path / "done" / "checkpoints")
    with pytest.raises(WorkdirError, match="its checkpoints are gone, so it cannot be made longer"):
        touch(tmp_path / "done", rl(num_updates=20))


def test_epochs_may_only_grow(tmp_path):
    finish(tmp_path, supervised(num_epochs=2), 10)
    assert read_summary(tmp_path, supervised(num_epochs=3)) is None
    with pytest.raises(WorkdirError, match="num_epochs=1 is fewer than the 2"):
        touch(tmp_path, supervised(num_epochs=1))
    with pytest.raises(WorkdirError, match="num_updates=9 is fewer than the 10"):
        touch(tmp_path, supervised(num_updates=9))
    assert read_summary(tmp_path, supervised(num_updates=10)) == {"updates": 10}
    touch(tmp_path, supervised(num_epochs=3))
    assert not (tmp_path / "DONE").exists()
    touch(tmp_path, supervised(num_updates=30))
    with pytest.raises(WorkdirError, match="num_epochs=9 cannot follow num_updates"):
        touch(tmp_path, supervised(num_epochs=9))


def test_a_key_that_config_json_lacks_is_the_default(tmp_path):
    touch(tmp_path)
    reach(tmp_path, 1)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["optimizer"] == {"learning_rate": 1e-3, "betas": [0.9, 0.95]}  # defaults are written too
    write_text(tmp_path / "config.json", json.dumps({"optimizer": {"betas": [0.9, 0.95]}}))
    touch(tmp_path)
    with pytest.raises(WorkdirError, match=r"\n  optimizer.learning_rate: 0.001 there, 0.01 now$"):
        touch(tmp_path, Spec(optimizer=Optimizer(learning_rate=0.01)))


LEFTOVERS = ("metrics.jsonl", "lineage.json", "error.txt", "completions/a.jsonl", "tensorboard/events", "parts/")
RESULTS = ("DONE", "checkpoints/3/", "parts/000.json", "verdicts.jsonl", "metrics.jsonl")


def leave(path, names):
    for name in names:
        file = path / name
        (file if name.endswith("/") else file.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            file.write_text('{"step": 0}\n')


def test_a_start_that_failed_before_its_first_checkpoint_locks_nothing(tmp_path):
    touch(tmp_path)
    leave(tmp_path, (*LEFTOVERS, "checkpoints/3.orbax-checkpoint-tmp-0/", "mine.txt", "rl/config.json"))
    touch(tmp_path, Spec(seed=2))
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 2
    there = sorted(path.name for path in tmp_path.iterdir())
    assert there == ["LOCK", "config.json", "environment.json", "mine.txt", "rl"]
    touch(tmp_path, Spec(seed=2, workers=1))
    assert not (tmp_path / "changes.jsonl").exists()


@pytest.mark.parametrize("result", RESULTS)
def test_results_lock_the_directory(tmp_path, result):
    touch(tmp_path)
    leave(tmp_path, [result])
    with pytest.raises(WorkdirError, match="seed: 1 there, 2 now"):
        touch(tmp_path, Spec(seed=2))
    assert (tmp_path / result).exists()


def test_damaged_config(tmp_path):
    touch(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WorkdirError, match=r"config\.json is damaged"):
        touch(tmp_path)
    (tmp_path / "DONE").write_text("")
    assert read_summary(tmp_path, SPEC) is None


@pytest.mark.parametrize("value", [len, float("nan"), {1, 2}])
def test_config_that_is_no_json(tmp_path, value):
    with pytest.raises(TypeError, match=r"config key 'arguments\.judge\[0\]' cannot be written as JSON"):
        touch(tmp_path / "new", Spec(arguments={"judge": [value]}))
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
    with open_workdir(tmp_path, SPEC):
        require_space(tmp_path, 30 * 10**6)
        with pytest.raises(WorkdirError, match=f"{tmp_path}: needs 117 MB, 100 MB are free on its disk"):
            require_space(tmp_path, 50 * 10**6)  # and 67 MB beside the checkpoints
    usage = usage._replace(free=5 * 10**6)
    with pytest.raises(WorkdirError, match="needs 67 MB, 5 MB are free"):
        touch(tmp_path)


def test_a_second_run_is_refused_while_the_first_writes(tmp_path):
    with open_workdir(tmp_path, SPEC):
        with pytest.raises(
            WorkdirError, match=f"{tmp_path} is in use by process {os.getpid()} on .*; start again when"
        ):
            touch(tmp_path)
        touch(tmp_path / "other")
    touch(tmp_path)
    with pytest.raises(ZeroDivisionError), open_workdir(tmp_path, SPEC):
        raise ZeroDivisionError
    touch(tmp_path)


def test_the_lock_goes_with_a_killed_process(tmp_path):
    script = (
        "import sys, time\nfrom r1jax.workdir.directory import open_workdir\n"
        "from r1jax.specs.training import MeshSpec\n"
        "with open_workdir(sys.argv[1], MeshSpec()):\n    print('open', flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout and other.stdout.readline() == "open\n"
        with pytest.raises(WorkdirError, match=f"in use by process {other.pid} on"):
            touch(tmp_path, MeshSpec())
        other.kill()
    touch(tmp_path, MeshSpec())


def test_a_file_system_without_locks_gets_a_warning(tmp_path, monkeypatch, capsys):
    def refuse(file, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    touch(tmp_path)
    assert f"warning: {tmp_path} cannot be locked" in capsys.readouterr().err


def test_only_the_first_of_several_processes_locks(tmp_path, monkeypatch):
    with open_workdir(tmp_path, SPEC):
        monkeypatch.setattr("jax.process_index", lambda: 1)
        touch(tmp_path)


def test_paths_from_here_survive_a_move(tmp_path):
    old, new = tmp_path / "runs", tmp_path / "elsewhere" / "runs"
    assert to_here(old / "base", old / "zero" / "rl") == "{here}/../../base"
    rl = old / "zero" / "rl"
    relative = Spec(inputs=(to_here(old / "base", rl),), arguments={"a": ["{here}/x", "a{here}/"]})
    absolute = Spec(inputs=(f"{old}/base",), arguments={"a": [f"{rl}/x", "a{here}/"]})
    assert from_here({"init": relative.inputs, "a": relative.arguments}, rl) == {
        "init": absolute.inputs,
        "a": absolute.arguments,
    }
    touch(rl, relative)
    reach(rl, 1)
    touch(rl, absolute)  # the same
    shutil.move(old, tmp_path / "elsewhere" / "runs")
    touch(new / "zero" / "rl", relative)
    with pytest.raises(WorkdirError, match=rf"inputs\[0\]: '{new}/base' there, '{old}/base' now"):
        touch(new / "zero" / "rl", absolute)


def test_code_that_changed_since_the_latest_start(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "judge.py").write_text("def score(): return 1")
    spec = Spec(arguments={"rewards": [{"function": "judge:score"}]})
    workdir = tmp_path / "w"
    assert changed_code(workdir, spec) == []  # nothing was started there
    touch(workdir, spec)
    assert changed_code(workdir, spec) == []
    (tmp_path / "judge.py").write_text("def score(): return 2")
    assert changed_code(workdir, spec) == ["judge"]
    touch(workdir, spec)
    assert changed_code(workdir, spec) == []


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old"
