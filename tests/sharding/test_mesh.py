"""The spine on eight simulated devices gives the single-device numbers (invariant 3)."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from r1jax.models.transformer import make_model
from r1jax.objectives.sums import add_metrics
from r1jax.rollout.engine import Engine
from r1jax.sharding import make_mesh, place_batch, tree_shardings
from r1jax.specs.rollout import EngineSpec
from r1jax.specs.training import OptimizerSpec
from r1jax.training.learner import init_state, make_update
from r1jax.training.optimizer import make_optimizer
from tests.tiny import GQA, V3, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

MOE = dataclasses.replace(V3, num_layers=2, num_dense_layers=0)
MODELS = {"v3": make_model(MOE), "gqa": make_model(GQA)}
MODELS["v3, experts spread"] = make_model(dataclasses.replace(MOE, expert_parallel="all_to_all"))
MIX = {"data": 2, "fsdp": 1, "expert": 2, "tensor": 2}
CASES = [("v3", {name: 2}) for name in ("data", "fsdp", "expert", "tensor")]
CASES += [("v3", MIX), ("gqa", {"fsdp": 2, "tensor": 2})]


def make_batch():
    rng = np.random.default_rng(0)
    segments = np.ones((8, 10), np.int32)
    segments[:, 6:] = 2
    segments[3, 8:] = 0
    positions = np.tile([*range(6), *range(4)], (8, 1)).astype(np.int32)
    tokens, targets = rng.integers(0, 48, (2, 8, 10)).astype(np.int32)
    weight = np.where(segments > 0, 1 / 78, 0).astype(np.float32)
    return {"tokens": tokens, "targets": targets, "positions": positions, "segments": segments, "weight": weight}


def loss_function(model, params, buffers, batch):
    hidden, _, aux = model.hidden(
        params, buffers, batch["tokens"], positions_BT=batch["positions"], segments_BT=batch["segments"]
    )
    logp, entropy = model.token_logprob(params, hidden, batch["targets"])
    return -jnp.sum(batch["weight"] * (logp + 0.1 * entropy)), {"logp": logp, "expert_counts": aux}


def step(name, mesh):
    """(log-probs, gradients, state after one update) of two accumulated micro-batches, and the parameters' arrays."""
    model = MODELS[name]
    trees = shaken(model)
    optimizer, schedule = make_optimizer(OptimizerSpec(learning_rate=0.01, eps=1e-3, weight_decay=0.1), total_steps=10)
    with jax.set_mesh(mesh):
        params, buffers = (
            jax.device_put(tree, tree_shardings(axes, tree, mesh))
            for tree, axes in zip(trees, model.logical_axes(), strict=True)
        )
        state = init_state(params, buffers, optimizer=optimizer)
        placed = state["params"]
        layout = jax.tree.map(lambda a: (a.sharding.spec, a.sharding.shard_shape(a.shape)), placed)
        update = make_update(
            partial(loss_function, model), optimizer, schedule=schedule, state=state, bias_rate=0.01,
            add_metrics=add_metrics,
        )  # fmt: skip
        batch = make_batch()
        sums = update.zeros(batch)
        for _ in range(2):
            sums = update.accumulate(state["params"], state["buffers"], *sums, batch)
        grads, metrics = jax.tree.map(np.array, sums)
        counts = metrics["expert_counts"].get("expert_counts_LE")
        state, info = update.apply(state, sums[0], counts)
        assert bool(info["finite"])
    return metrics["logp"] / 2, grads, jax.tree.map(np.array, state), counts, layout


@pytest.fixture(scope="module")
def single():
    results = {}

    def get(name):
        if name not in results:
            results[name] = step(name, make_mesh())
        return results[name]

    return get


@pytest.mark.parametrize(("name", "axes"), CASES, ids=str)
def test_forward_gradient_and_update_equal_one_device(name, axes, single):
    want_logp, want_grads, want_state, want_counts, _ = single(name)
    logp, grads, state, counts, layout = step(name, make_mesh(axes))
    np.testing.assert_allclose(logp, want_logp, atol=2e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-6), grads, want_grads)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), state, want_state)
    if name == "v3":
        np.testing.assert_array_equal(counts, want_counts)
        assert counts.sum() == 2 * 2 * 2 * 78  # two micro-batches, two layers, two experts a token
    check_layout(name, axes, layout)


def check_layout(name, axes, layout):
    """The parameters are really split: what one device holds."""
    embed, tensor, expert = (axes.get(axis, 1) for axis in ("fsdp", "tensor", "expert"))
    assert layout["embed_VD"][1] == (48 // tensor, 32 // embed)
    stack = layout["moe" if name == "v3" else "dense"]
    if name == "v3":
        assert stack["ffn"]["w_up_EDF"][1] == (2, 8 // expert, 32 // embed, 16 // tensor)
        assert stack["attention"]["w_uq_QNA"][1] == (2, 16 // embed, 4 // tensor, 16)
        assert stack["attention"]["w_dkv_DC"][1] == (2, 32 // embed, 20)
    else:
        assert stack["attention"]["w_k_DJH"][1] == (2, 32 // embed, 2 // tensor, 8)
        assert stack["attention"]["b_q_NH"][1] == (2, 4 // tensor, 8)
    assert stack["attention_norm"]["scale"][1] == (2, 32)


@pytest.mark.parametrize("name", MODELS)
def test_generate_gives_the_same_tokens_on_the_mesh(name):
    model = MODELS[name]
    trees = shaken(model)

    def generate(mesh):
        with jax.set_mesh(mesh):
            params, buffers = jax.device_put(
                trees, tuple(map(partial(tree_shardings, mesh=mesh), model.logical_axes(), trees))
            )
            engine = Engine(model, EngineSpec(prompt_bucket=4, segment=6))
            return engine.generate(
                params, buffers, [[5, 40, 17], [7]], num_samples=4, max_new_tokens=6, stop_ids=(0, 11),
                key=jax.random.key(0),
            )  # fmt: skip

    single, mixed = ([c for group in generate(make_mesh(axes)) for c in group] for axes in ({}, MIX))
    for want, got in zip(single, mixed, strict=True):
        np.testing.assert_array_equal(got.token_ids, want.token_ids)
        np.testing.assert_allclose(got.logps, want.logps, atol=2e-5)
        assert got.stop_reason == want.stop_reason


def test_place_batch_spreads_rows_and_replicates_scalars():
    batch = {"tokens": np.arange(32).reshape(8, 4), "num_tokens": np.float32(3), "odd": np.ones((3, 2))}
    assert place_batch(batch)["tokens"] is batch["tokens"]  # no mesh
    with jax.set_mesh(make_mesh({"data": 2, "expert": 2, "tensor": 2})):
        placed = place_batch(batch)
    assert placed["tokens"].sharding.spec == PartitionSpec(("data", "expert"), None)
    assert [placed[name].sharding.shard_shape(placed[name].shape) for name in batch] == [(2, 4), (), (3, 2)]
    for name, array in batch.items():
        np.testing.assert_array_equal(placed[name], array)
