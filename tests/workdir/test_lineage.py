"""Inputs are written down once, and another one in their place is told."""

import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.specs.fields import PathText, option
from r1jax.specs.policy import SourceSpec, StageInit
from r1jax.workdir.directory import WorkdirError
from r1jax.workdir.lineage import check_lineage, record_lineage, weights_digest


@dataclass(frozen=True, kw_only=True)
class Spec:
    init: StageInit = option()
    others: tuple[SourceSpec | PathText, ...] = option(())
    note: str = option("/")


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
    spec = Spec(init=StageInit(path=base), others=(SourceSpec(path=str(tmp_path / "set")), str(tmp_path / "later")))
    inputs = record_lineage(run, spec)
    assert set(inputs) == {"init.path", "others[0].path"}
    assert inputs["init.path"]["path"] == "{here}/../base" and inputs["init.path"]["commit"] == "abc"
    assert json.loads((run / "lineage.json").read_text()) == {"inputs": inputs}
    assert record_lineage(run, Spec(init=StageInit(path="{here}/../base"), others=spec.others)) == inputs

    (tmp_path / "set" / "a.jsonl").write_text("{}  ")
    record_lineage(run, spec)  # nothing is done yet that the former input was used for
    (run / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "set" / "a.jsonl").write_text("{} ")
    with pytest.raises(WorkdirError, match=r"its input others\[0\]\.path=.*/set was made anew"):
        record_lineage(run, spec)
    (tmp_path / "set" / "a.jsonl").write_text("{}  ")
    (tmp_path / "base" / "manifest.json").write_text("{}")
    with pytest.raises(WorkdirError, match=r"its input init\.path=.*/base was made anew"):
        record_lineage(run, spec)
    (tmp_path / "base" / "manifest.json").unlink()
    stage_at(tmp_path / "base", seed=1)
    with pytest.raises(WorkdirError, match=r"its input init\.path=.*/base was made anew"):
        record_lineage(run, spec)


def test_an_input_that_was_made_longer_is_named_with_both_numbers_of_updates(tmp_path):
    spec, run = Spec(init=StageInit(path=stage_at(tmp_path / "base", num_updates=6))), tmp_path / "run"
    (tmp_path / "base" / "checkpoints" / "6").mkdir(parents=True)
    run.mkdir()
    record_lineage(run, spec)
    (run / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "base" / "checkpoints" / "8").mkdir()
    check_lineage(run, spec)  # it goes on, as it was asked to when this run was begun
    stage_at(tmp_path / "base", num_updates=8)
    with pytest.raises(WorkdirError, match=r"its input init\.path=.*/base was made anew .*\(6 updates then, 8 now\);"):
        check_lineage(run, spec)


@pytest.mark.parametrize("text", ["{}", "[]", '{"inputs": ["x"]}', '{"inputs": {"init.path": {}}}', '{"inputs": '])
def test_a_damaged_list_of_inputs_is_named(tmp_path, text):
    run, spec = tmp_path / "run", Spec(init=StageInit(path=stage_at(tmp_path / "base")))
    (run / "checkpoints" / "1").mkdir(parents=True)
    (run / "lineage.json").write_text(text)
    with pytest.raises(WorkdirError, match=rf"^{run}/lineage.json is damaged: [^\n]*; choose another work directory$"):
        check_lineage(run, spec)


@pytest.mark.parametrize("text", ["[]", "{"])
def test_an_input_with_a_damaged_environment_has_no_commit(tmp_path, text):
    base = stage_at(tmp_path / "base")
    (tmp_path / "base" / "environment.json").write_text(text)
    (tmp_path / "run").mkdir()
    inputs = record_lineage(tmp_path / "run", Spec(init=StageInit(path=base)))
    assert inputs["init.path"]["commit"] is None and inputs["init.path"]["config"]


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
