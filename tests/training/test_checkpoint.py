import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.sharding import make_mesh
from r1jax.specs.training import OptimizerSpec
from r1jax.training.checkpoint import CheckpointError, Checkpoints, best_step, checkpoint_steps, load_checkpoint
from r1jax.training.learner import init_state
from r1jax.training.optimizer import make_optimizer

REPOSITORY = Path(__file__).parents[2]


def make_state(seed=0, features=4096):
    params = {"w": jax.random.normal(jax.random.key(seed), (4, features)), "scale": jnp.ones((4,))}
    optimizer, _ = make_optimizer(OptimizerSpec(learning_rate=0.1), total_steps=10)
    state = init_state(params, {"router_bias_E": jnp.arange(8.0).reshape(2, 4)}, optimizer=optimizer)
    return state | {"reference": jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)}


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def folders(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def saved(workdir, *steps, **options):
    with Checkpoints(workdir, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), extra={"cursor": step})


def test_round_trip(tmp_path):
    state, extra = make_state(), {"data": {"position": 7, "keys": [1, 2]}, "best": None, "note": "中"}
    with Checkpoints(tmp_path, every=5) as checkpoints:
        assert checkpoints.latest_step() is None
        with pytest.raises(CheckpointError, match="no checkpoint to restore"):
            checkpoints.restore(state)
        assert [step for step in range(8) if checkpoints.is_due(step)] == [5, 6, 7]
        checkpoints.save(5, state, extra=extra)
        assert [step for step in range(12) if checkpoints.is_due(step)] == [10, 11]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 5
        got, got_extra = checkpoints.restore(make_state(1))
        assert_same(got, state)
        assert got_extra == extra
        checkpoints.save(5, got, extra=got_extra)  # stopped before another update: nothing to do


def test_state_may_be_donated_while_it_is_saved(tmp_path):
    state = {"w": jnp.arange(1 << 20, dtype=jnp.float32)}
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda a: a * 0 - 1, tree), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, extra={})
        state = overwrite(state)
        jax.block_until_ready(state)
    got, _ = load_checkpoint(tmp_path, state)
    np.testing.assert_array_equal(got["w"], np.arange(1 << 20, dtype=np.float32))


def test_keeps_the_latest(tmp_path):
    saved(tmp_path, 1, 2, 4, keep=2)
    assert folders(tmp_path) == ["2", "4"]
    saved(tmp_path, 5, keep=2)
    assert folders(tmp_path) == ["4", "5"]


def test_space_that_checkpoints_will_take(tmp_path):
    state = {"w": jnp.zeros((100, 10)), "scale": jnp.zeros((10,), jnp.bfloat16)}  # 4000 + 20 bytes
    abstract = jax.eval_shape(lambda: state)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.bytes_to_come(state, with_best=True) == 4 * 4020
        assert checkpoints.bytes_to_come(state) == checkpoints.bytes_to_come(abstract) == 3 * 4020
        for step, more in ((1, 2), (2, 1), (3, 1)):  # one at least: the next is written before the oldest goes
            checkpoints.save(step, state, extra={})
            checkpoints.wait()
            assert checkpoints.bytes_to_come(state) == more * 4020


def run_scored(workdir, scores, *, first=0, stop_after=None, keep=2):
    """A loop that saves every third update and evaluates every second before it goes on, as the RL stage does."""
    state = {"w": jnp.zeros(4)}
    with Checkpoints(workdir, keep=keep, every=3) as checkpoints:
        step = 0
        if checkpoints.latest_step() is not None:
            state, extra = checkpoints.restore(state)
            step = extra["step"]
        while step < 12:
            extra = {"step": step}
            if step in scores:
                checkpoints.save_best(step, state, extra=extra, metric="pass@1", value=scores[step])
            if step == stop_after:
                return
            state, step = {"w": state["w"] + 1}, step + 1
            if checkpoints.is_due(step):
                checkpoints.save(step, state, extra={"step": step})


SCORES = {2: 0.1, 4: 0.5, 6: 0.3, 8: 0.5, 10: float("nan")}
BEST = {"step": 4, "metric": "pass@1", "value": 0.5}  # 8 is a tie


def test_the_best_is_kept_as_well_as_the_latest(tmp_path):
    run_scored(tmp_path, SCORES)
    assert json.loads((tmp_path / "best.json").read_text()) == {
        "step": 4,
        "metric": "pass@1",
        "value": 0.5,
    }  # 8 is a tie
    assert checkpoint_steps(tmp_path) == [4, 7, 10] and best_step(tmp_path) == 4
    got, extra = load_checkpoint(tmp_path, {"w": jnp.zeros(4)}, step="best")
    assert extra == {"step": 4} and float(got["w"][0]) == 4
    assert load_checkpoint(tmp_path, {"w": jnp.zeros(4)}, step=7)[1] == {"step": 7}
    for latest in ("latest", None):
        assert load_checkpoint(tmp_path, {"w": jnp.zeros(4)}, step=latest)[1] == {"step": 10}
    with pytest.raises(CheckpointError, match=r"checkpoints: no checkpoint of step 8; there are 4 \(best\), 7, 10$"):
        load_checkpoint(tmp_path, {"w": jnp.zeros(4)}, step=8)


@pytest.mark.parametrize("stop_after", [1, 2, 4, 5, 8, 10])
def test_an_interrupted_run_ends_with_the_same_best(tmp_path, stop_after):
    run_scored(tmp_path, SCORES, stop_after=stop_after)
    run_scored(tmp_path, SCORES)
    assert json.loads((tmp_path / "best.json").read_text()) == BEST
    assert 4 in checkpoint_steps(tmp_path)


@pytest.mark.parametrize("step", [2, 4])
def test_killed_while_the_best_is_saved(tmp_path, step):
    script = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_checkpoint
        from r1jax.training.checkpoint import Checkpoints

        save_best = Checkpoints.save_best

        def save_and_die(self, step, *arguments, **options):
            save_best(self, step, *arguments, **options)
            if step == {step}:
                os.kill(os.getpid(), signal.SIGKILL)

        Checkpoints.save_best = save_and_die
        test_checkpoint.run_scored(sys.argv[1], test_checkpoint.SCORES)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        cwd=REPOSITORY,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    run_scored(tmp_path, SCORES)
    assert json.loads((tmp_path / "best.json").read_text()) == BEST
    assert 4 in checkpoint_steps(tmp_path)


def test_a_best_that_was_lost_is_not_the_best(tmp_path):
    """What a kill can leave: best.json behind the last save, or ahead of the one that is gone on with."""
    run_scored(tmp_path, {2: 0.1, 4: 0.5}, stop_after=4)
    best, checkpoints = tmp_path / "best.json", tmp_path / "checkpoints"
    best.write_text('{"step": 2, "metric": "pass@1", "value": 0.1}')  # killed when 4 was saved, before best.json was
    run_scored(tmp_path, {}, stop_after=4)
    assert best_step(tmp_path) == 4
    shutil.rmtree(checkpoints / "4")  # it was damaged; on with the one before
    run_scored(tmp_path, {}, stop_after=2)
    assert best_step(tmp_path) == 2
    run_scored(tmp_path, {2: 0.1, 4: 0.05, 6: 0.2}, stop_after=7)
    assert best_step(tmp_path) == 6
    with Checkpoints(tmp_path) as opened:
        opened.restore({"w": jnp.zeros(4)})
        assert opened.save_best(9, {"w": jnp.zeros(4)}, extra={}, metric="other", value=-1.0)
    assert json.loads(best.read_text()) == {"step": 9, "metric": "other", "value": -1.0}
    best.write_text('{"step": 6, "metric": "pass@1", "value": 0.2}')  # killed when 9 was saved, before best.json was
    with Checkpoints(tmp_path) as opened:
        opened.restore({"w": jnp.zeros(4)})
    assert best_step(tmp_path) == 9  # scores of different metrics are not compared


def test_best_json_never_names_what_is_not_on_disk(tmp_path):
    state = {"w": jnp.zeros(1 << 20)}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step in range(1, 5):
            assert checkpoints.save_best(step, state, extra={}, metric="pass@1", value=step / 10)
            assert best_step(tmp_path) in (None, *checkpoint_steps(tmp_path)), step
            checkpoints._checkpointer.wait()  # on disk, and nothing has been done since
            assert best_step(tmp_path) in (None, *checkpoint_steps(tmp_path)), step
            checkpoints.save(step * 100, state, extra={})
            assert best_step(tmp_path) in checkpoint_steps(tmp_path), step
            load_checkpoint(tmp_path, state, step="best")  # a reader, while the next one is being saved
    assert checkpoint_steps(tmp_path) == [4, 400]
    (tmp_path / "best.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"best\.json is damaged"):
        best_step(tmp_path)
    (tmp_path / "best.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"best\.json is damaged"):
        load_checkpoint(tmp_path, state, step="best")
    with pytest.raises(CheckpointError, match="none of its checkpoints has a held-out score"):
        (tmp_path / "best.json").unlink()
        load_checkpoint(tmp_path, state, step="best")


def test_restores_onto_another_mesh(tmp_path):
    before, after = make_mesh({"fsdp": 8}), make_mesh({"data": 2, "tensor": 4})
    array = jax.random.normal(jax.random.key(0), (16, 8))
    state = {"w": jax.device_put(array, NamedSharding(before, PartitionSpec("fsdp")))}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, extra={})
    sharding = NamedSharding(after, PartitionSpec(None, "tensor"))
    got, _ = load_checkpoint(tmp_path, {"w": jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=sharding)})
    assert got["w"].sharding == sharding
    np.testing.assert_array_equal(got["w"], array)


def test_part_of_a_state(tmp_path):
    saved(tmp_path, 3)
    state = make_state(3)
    got, extra = load_checkpoint(tmp_path, {"params": state["params"]}, partial=True)
    assert_same(got, {"params": state["params"]})
    assert extra == {"cursor": 3}


def test_interrupted_saves_are_never_taken(tmp_path):
    """A save that fails for lack of space, then one cut off by kill -9."""
    script = """
        import os, resource, signal, sys
        import jax.numpy as jnp
        from r1jax.training.checkpoint import CheckpointError, Checkpoints

        with Checkpoints(sys.argv[1], keep=1) as checkpoints:
            checkpoints.save(1, {"w": jnp.full((1 << 22,), 1.0)}, extra={"cursor": 1})
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
        try:
            with Checkpoints(sys.argv[1], keep=1) as checkpoints:
                checkpoints.save(2, {"w": jnp.full((1 << 22,), 2.0)}, extra={"cursor": 2})
        except CheckpointError as error:
            print(error, flush=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        checkpoints = Checkpoints(sys.argv[1], keep=1)
        checkpoints.save(3, {"w": jnp.full((1 << 22,), 3.0)}, extra={"cursor": 3})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    for attempt in range(5):  # on a machine that was paused the third save may be done before the kill: then once more
        workdir = tmp_path / str(attempt)
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(workdir)],
            cwd=REPOSITORY,
            env=os.environ | {"XLA_FLAGS": ""},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert "cannot save" in done.stdout and str(workdir / "checkpoints") in done.stdout
        if any(name.startswith("3.") for name in folders(workdir)):
            break
    else:
        pytest.fail("the kill always came too late to test anything")
    state = {"w": jnp.zeros((1 << 22,))}
    assert load_checkpoint(workdir, state)[1] == {"cursor": 1}  # a reader leaves the rest alone
    assert len(folders(workdir)) > 1
    with Checkpoints(workdir, keep=1) as checkpoints:
        assert checkpoints.latest_step() == 1
        got, extra = checkpoints.restore(state)
        assert extra == {"cursor": 1} and float(got["w"][-1]) == 1.0
        checkpoints.save(3, got, extra={"cursor": 3})
    assert folders(workdir) == ["3"]


def largest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def truncate(folder):
    os.truncate(largest_file(folder), 1000)


def remove(folder):
    largest_file(folder).unlink()


def flip_bits(folder):
    file = largest_file(folder)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_record(folder):
    os.truncate(next((folder / "record").glob("*.json")), 3)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # Orbax leaves coroutines of a failed load
@pytest.mark.parametrize("damage", [truncate, remove, flip_bits, cut_record])
def test_damaged_checkpoint_is_named(tmp_path, damage):
    saved(tmp_path, 1, 2)
    damage(tmp_path / "checkpoints" / "2")
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match=r"checkpoints/2.* delete this folder") as error:
            checkpoints.restore(make_state())
        assert len(str(error.value)) < 1000
    del error
    gc.collect()  # here, where what Orbax left may complain
    shutil.rmtree(tmp_path / "checkpoints" / "2")  # as the message says
    state, extra = load_checkpoint(tmp_path, make_state())
    assert extra == {"cursor": 1}
    assert_same(state, make_state(1))


def test_state_of_another_model_is_refused(tmp_path):
    saved(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"checkpoints/1 is of another model.*\[4, 4096\] there.*\[4, 64\] here"):
        load_checkpoint(tmp_path, make_state(features=64))
    with pytest.raises(CheckpointError, match=r"reference/scale is bfloat16.* there, absent here"):
        load_checkpoint(tmp_path, {name: tree for name, tree in make_state().items() if name != "reference"})
    half = make_state() | {"step": jnp.zeros((), jnp.float32)}
    with pytest.raises(CheckpointError, match=r"step is int32\[\] there, float32\[\] here"):
        load_checkpoint(tmp_path, half)


def test_missing_checkpoints(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path, {})
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint in it"):
        load_checkpoint(tmp_path, {})


def test_bad_arguments(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "checkpoints").write_text("a file")
    with pytest.raises(CheckpointError, match=r"cannot open .*taken/checkpoints"):
        Checkpoints(tmp_path / "taken")
    with Checkpoints(tmp_path) as checkpoints:
        for extra in ({1: 2}, {"a": (1, 2)}, {"a": float("nan")}):
            with pytest.raises(ValueError, match="no plain JSON"):
                checkpoints.save(1, {"w": jnp.zeros(2)}, extra=extra)
        with pytest.raises(TypeError):
            checkpoints.save(1, {"w": jnp.zeros(2)}, extra={"a": jnp.zeros(2)})
    assert folders(tmp_path) == []


def test_record_is_readable(tmp_path):
    saved(tmp_path, 1)
    record = json.loads(next((tmp_path / "checkpoints" / "1" / "record").glob("*.json")).read_text())
    assert record["extra"] == {"cursor": 1}
    assert record["arrays"]["params/w"]["shape"] == [4, 4096]
