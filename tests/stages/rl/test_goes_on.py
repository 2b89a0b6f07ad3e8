"""A run that was stopped, or is done, goes on with other settings and feeds other stages; what is learned stays fixed."""

import json
import shutil

import jax
import numpy as np
import pytest

from r1jax.hf import load_pretrained
from r1jax.policies import export
from r1jax.policies.policy import load_init
from r1jax.report.headline import headline
from r1jax.report.markup import show
from r1jax.sharding import make_mesh
from r1jax.specs.policy import StageInit
from r1jax.stages.rl import stage as rl
from r1jax.training.checkpoint import best_step, checkpoint_steps
from r1jax.workdir.directory import WorkdirError
from r1jax.workdir.read import read_stage
from tests.stages.rl.test_stage import params_of, tiny_config
from tests.tiny import POLICY, rows_of

pytestmark = pytest.mark.usefixtures("quick_compilation")

MODEL = {"model_dim": 32, "ffn_dim": 48, "num_layers": 1, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
DENSE = POLICY | {"preset": "mini_llama", "model": MODEL | {"init_std": 0.2}}


def short_config(*, evaluations=None, **changes):
    """Four phases of an update; evaluations of their shape, so that few programs are compiled."""
    few = {
        "init": DENSE, "updates_per_phase": 1, "num_updates": 4, "max_new_tokens": 8, "checkpoint_every": 1,
        "keep_checkpoints": 1, "eval": {"every": 1, "samples": 4} | (evaluations or {}),
    }  # fmt: skip
    return tiny_config(**few | changes)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The work directory of a run that nothing disturbed."""
    path = tmp_path_factory.mktemp("rl") / "alone"
    rl.main(short_config(), path)
    return path


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """That of one that ended in the phase after its second update."""
    path = tmp_path_factory.mktemp("rl") / "stopped"
    real = rl.update_on_groups

    def interrupt(*args, updates):
        if updates == 2:
            raise KeyboardInterrupt
        return real(*args, updates=updates)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(rl, "update_on_groups", interrupt)
        rl.main(short_config(), path)
    assert not (path / "DONE").exists()
    return path


def changes_of(workdir):
    return [json.loads(line) for line in (workdir / "changes.jsonl").read_text().splitlines()]


def test_a_run_that_is_done_is_extended_as_if_it_had_asked_for_more_from_the_start(alone, tmp_path):
    first = rl.main(short_config(num_updates=2), tmp_path)
    assert (tmp_path / "DONE").exists() and first["updates"] == 2
    summary = rl.main(short_config(), tmp_path)
    assert (tmp_path / "DONE").exists() and summary["updates"] == 4 and summary["before"] == first["before"]
    (change,) = changes_of(tmp_path)
    assert change["update"] == 2 and change["changes"] == {"num_updates": [2, 4]}
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path, short_config()), params_of(alone, short_config()))
    assert summary["after"] == json.loads((alone / "summary.json").read_text())["after"]
    assert rows_of(tmp_path) == rows_of(alone)  # its first end is no end any more
    with pytest.raises(WorkdirError, match="num_updates=3 is fewer than the 4 that are done"):
        rl.main(short_config(num_updates=3), tmp_path)


def test_how_it_is_run_may_change_on_the_way(alone, stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    spec = short_config(
        mesh={"data": 2, "fsdp": 2, "tensor": 2}, rows_per_microbatch=8, checkpoint_every=2, keep_checkpoints=3,
        evaluations={"every": 4},
    )  # fmt: skip
    rl.main(spec, tmp_path / "run")
    (change,) = changes_of(tmp_path / "run")
    assert change["update"] == 2 and change["changes"] == {
        "mesh.data": [1, 2], "mesh.fsdp": [1, 2], "mesh.tensor": [1, 2], "rows_per_microbatch": [4, 8],
        "checkpoint_every": [1, 2], "keep_checkpoints": [1, 3], "eval.every": [1, 4],
    }  # fmt: skip
    assert json.loads((tmp_path / "run" / "config.json").read_text())["eval"]["every"] == 4
    ours, theirs = (
        {row["step"]: row for row in rows_of(path) if "reward" in row} for path in (tmp_path / "run", alone)
    )
    assert ours.keys() == theirs.keys() == {1, 2, 3, 4}
    for step, row in theirs.items():
        for name, value in row.items():
            assert ours[step][name] == pytest.approx(value, rel=2e-3, abs=2e-4), (step, name)


def test_scores_of_another_protocol_are_not_compared(alone, stopped, tmp_path, capsys):
    """The held-out scores before and after, and the best one so far with those to come."""
    path = tmp_path / "run"
    shutil.copytree(stopped, path)
    best = json.loads((path / "best.json").read_text())
    was = "4 problems, 4 samples of each, temperature 1.0, all tokens, seed 20000"
    assert best["metric"] == f"pass@1 of {was}"
    (path / "best.json").write_text(json.dumps(best | {"value": 2.0}))  # higher than any to come
    summary = rl.main(short_config(evaluations={"temperature": 0.5}), path)
    now = was.replace("1.0", "0.5")
    assert f"the first evaluation was of {was}; now it is {now}: they are not compared" in capsys.readouterr().out
    assert summary["before"] is None and summary["after"] == json.loads((path / "summary.json").read_text())["after"]
    best = json.loads((path / "best.json").read_text())
    assert best["metric"] == f"pass@1 of {now}" and best["value"] < 2 and best["step"] >= 2
    assert (f"– → {show(summary['after']['pass@1'])}", "held-out pass@1", "") in headline(read_stage(path))
    assert json.loads((alone / "summary.json").read_text())["before"] is not None


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"optimizer": {"learning_rate": 0.002}}, r"optimizer\.learning_rate: 0\.001 there, 0\.002 now"),
        ({"temperature": 0.9}, r"temperature: 1\.0 there, 0\.9 now"),
        ({"seed": 1, "num_updates": 8}, "seed: 0 there, 1 now"),
    ],
)
def test_what_is_learned_may_not(stopped, changes, line):
    before = (stopped / "config.json").read_text()
    with pytest.raises(WorkdirError, match=rf"stopped holds a run of another config.*\n  {line}$"):
        rl.main(short_config(**changes), stopped)
    assert (stopped / "config.json").read_text() == before and not (stopped / "changes.jsonl").exists()


@pytest.mark.slow
def test_what_a_stopped_run_has_reached_starts_another_stage_and_is_exported(stopped, tmp_path, monkeypatch):
    (latest,), best = set(checkpoint_steps(stopped)) - {best_step(stopped)}, best_step(stopped)
    assert latest == 2 and best in (1, 2)
    started = []

    def build(spec, model, params, buffers):
        started.append(jax.tree.map(np.asarray, params))
        raise InterruptedError

    monkeypatch.setattr(rl, "build", build)
    for step, is_at in (("latest", latest), ("best", best), (best, best)):
        init = StageInit(path=str(stopped), step=step)
        with pytest.raises(InterruptedError):
            rl.main(short_config(init=init), tmp_path / f"next_{step}")
        _, params, _ = load_init(StageInit(path=str(stopped), step=is_at), mesh=make_mesh(), seed=0)
        jax.tree.map(np.testing.assert_array_equal, started[-1], params)
        folder = tmp_path / f"folder_{step}"
        assert export.main(["--from", str(stopped), "--to", str(folder), "--step", str(step)]) == 0
        jax.tree.map(np.testing.assert_array_equal, load_pretrained(folder, dtype="float32").params, params)
    embeddings = [params["embed_VD"] for params in started]
    assert not np.array_equal(embeddings[0], embeddings[1]) and np.array_equal(embeddings[1], embeddings[2])
    with pytest.raises(FileNotFoundError, match="it has no DONE; step='latest' takes its last checkpoint"):
        rl.main(short_config(init=StageInit(path=str(stopped))), tmp_path / "next")
