"""Inputs are written down once, and another one in their place is told."""

import json

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.workdir.directory import WorkdirError
from r1jax.workdir.lineage import paths_of, record_lineage, weights_digest


def stage_at(path, **config):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    (path / "environment.json").write_text(json.dumps({"commit": "abc"}))
    return str(path)


def test_an_input_that_was_made_anew_is_told(tmp_path):
    base, run = stage_at(tmp_path / "base", seed=0), tmp_path / "run"
    run.mkdir()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jsonl").write_text("{}")
    config = {
        "init": {"kind": "stage", "path": base},
        "others": [{"path": str(tmp_path / "set")}, {"path": str(tmp_path / "later")}],
    }
    inputs = record_lineage(run, config)
    assert set(inputs) == {"init.path", "others.0.path"}
    assert inputs["init.path"]["path"] == "{here}/../base" and inputs["init.path"]["commit"] == "abc"
    assert json.loads((run / "lineage.json").read_text()) == {"inputs": inputs}
    assert record_lineage(run, config) == inputs

    (tmp_path / "set" / "a.jsonl").write_text("{} ")
    with pytest.raises(WorkdirError, match=r"its input others\.0\.path was made anew"):
        record_lineage(run, config)
    (tmp_path / "set" / "a.jsonl").write_text("{}")
    (tmp_path / "base" / "manifest.json").write_text("{}")
    with pytest.raises(WorkdirError, match=r"its input init\.path was made anew"):
        record_lineage(run, config)
    (tmp_path / "base" / "manifest.json").unlink()
    stage_at(tmp_path / "base", seed=1)
    with pytest.raises(WorkdirError, match=r"its input init\.path was made anew"):
        record_lineage(run, config)


def test_inputs_are_what_the_keys_of_paths_name():
    config = {
        "init": {"path": "a", "preset": "b"},
        "with_paths": ["c", "d"],
        "table": [{"paths": {"Zero": "e"}}],
        "long_path": "f",
        "pathos": "g",
        "path": None,
    }
    assert dict(paths_of(config)) == {
        "init.path": "a", "with_paths.0": "c", "with_paths.1": "d", "table.0.paths.Zero": "e", "long_path": "f",
    }  # fmt: skip


def test_weights_are_told_apart_by_every_bit_and_name():
    tree = {"a": jnp.arange(6, dtype=jnp.float32).reshape(2, 3), "b": {"c": jnp.ones(4, jnp.bfloat16)}}
    digest = weights_digest(tree)
    assert digest == weights_digest(dict(reversed(tree.items())))
    others = [
        tree | {"a": tree["a"].at[1, 2].add(1e-6)},
        tree | {"a": tree["a"].at[0].set(tree["a"][1]).at[1].set(tree["a"][0])},
        tree | {"a": tree["a"].reshape(3, 2)},
        tree | {"b": {"d": tree["b"]["c"]}},
        tree | {"b": {"c": tree["b"]["c"].astype(jnp.float32)}},
        tree | {"b": {"c": -tree["b"]["c"]}},
    ]
    assert len({digest, *map(weights_digest, others)}) == 7
    mesh = jax.make_mesh((2, 4), ("a", "b"))
    big = {"a": jnp.arange(64, dtype=jnp.float32).reshape(4, 16)}
    spread = jax.device_put(big, NamedSharding(mesh, PartitionSpec("a", "b")))
    assert weights_digest(spread) == weights_digest(big)
