"""Scaling by simulation: a miniature on 1, 2, 4 and 8 devices learns the same, and sends what the count says."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models.transformer import make_model
from r1jax.objectives.sums import add_metrics
from r1jax.plan.collectives import collective_bytes
from r1jax.plan.local import Local
from r1jax.sharding import make_mesh, place_batch, tree_shardings
from r1jax.specs.policy import HuggingFaceInit, SourceSpec
from r1jax.specs.stages import SupervisedSpec
from r1jax.specs.training import OptimizerSpec
from r1jax.stages.supervised import make_loss
from r1jax.training.learner import init_state, make_update, update_once
from r1jax.training.optimizer import make_optimizer
from tests.tiny import GQA, V3

ROWS, LENGTH, UPDATES = 8, 16, 4
SPEC = SupervisedSpec(init=HuggingFaceInit(path="unread"), data=SourceSpec(path="unread"), num_updates=UPDATES)
DENSE = GQA
RING = dataclasses.replace(V3, num_layers=2, expert_parallel="ring")
pytestmark = pytest.mark.usefixtures("quick_compilation")


def batches():
    """Sequences that count upwards, so there is something to learn."""
    rng = np.random.default_rng(0)
    for _ in range(UPDATES):
        tokens = (rng.integers(0, 48, (ROWS, 1)) + np.arange(LENGTH + 1)) % 48
        yield {
            "tokens": tokens[:, :-1].astype(np.int32),
            "targets": tokens[:, 1:].astype(np.int32),
            "mask": np.ones((ROWS, LENGTH), np.float32),
            "segment_ids": np.ones((ROWS, LENGTH), np.int32),
            "positions": np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (ROWS, LENGTH)),
            "num_sequences": np.float32(ROWS),
            "num_segments": np.float32(ROWS),
            "num_tokens": np.float32(ROWS * LENGTH),
        }


def learning_curve(config, axes) -> list[tuple[float, float]]:
    """(loss, norm of the gradient) of each update."""
    model, mesh = make_model(config), make_mesh(axes)
    with jax.set_mesh(mesh):
        trees = model.init(jax.random.key(0))
        layouts = map(partial(tree_shardings, mesh=mesh), model.logical_axes(), trees)
        params, buffers = map(jax.device_put, trees, layouts)
        optimizer, schedule = make_optimizer(OptimizerSpec(learning_rate=3e-3), total_steps=UPDATES)
        state = init_state(params, buffers, optimizer=optimizer)
        loss = make_loss(model, SPEC)
        update = make_update(loss, optimizer, schedule=schedule, state=state, add_metrics=add_metrics)
        curve = []
        for batch in batches():
            state, sums, info = update_once(state, update, [place_batch(batch)])
            curve.append((float(sums["loss"]), float(info["grad_norm"])))
    return curve


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "meshes"),
    [
        pytest.param(DENSE, [{"fsdp": 2}, {"data": 2, "fsdp": 2}, {"fsdp": 8}], id="dense"),
        pytest.param(RING, [{"expert": 2}, {"expert": 4}, {"fsdp": 2, "expert": 4}], id="experts"),
    ],
)
def test_the_learning_curve_is_that_of_one_device(config, meshes):
    alone = learning_curve(config, {})
    losses = [loss for loss, _ in alone]
    assert losses[-1] < losses[0] - 0.1  # it does learn
    for axes in meshes:
        np.testing.assert_allclose(learning_curve(config, axes), alone, rtol=2e-4, err_msg=str(axes))


def gradient_collectives(config, axes) -> tuple[dict[str, float], Local]:
    """Bytes of the collectives of a loss' gradient, compiled for simulated devices, and the part of one of them."""
    model, mesh = make_model(config), make_mesh(axes)

    def laid_out(tree, names):
        layouts = tree_shardings(names, tree, mesh)
        return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), tree, layouts)

    params, buffers = map(laid_out, model.abstract(), model.logical_axes())
    tokens_BT = laid_out(jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32), ("batch", None))

    def loss(params, buffers, tokens_BT):
        positions_BT = jnp.broadcast_to(jnp.arange(LENGTH), tokens_BT.shape)
        hidden_BTD, _, _ = model.hidden(
            params, buffers, tokens_BT, positions_BT=positions_BT, segments_BT=jnp.ones_like(tokens_BT)
        )
        return model.token_logprob(params, hidden_BTD, tokens_BT)[0].sum()

    with jax.set_mesh(mesh):
        gradient = jax.jit(jax.grad(loss), out_shardings=jax.tree.map(lambda a: a.sharding, params))
        compiled = gradient.lower(params, buffers, tokens_BT).compile()
    return collective_bytes(compiled.as_text() or ""), Local(model, mesh, ROWS, LENGTH)


def added(exchanges) -> dict[str, float]:
    """Bytes by kind."""
    return {kind: sum(e.bytes for e in exchanges if e.kind == kind) for kind in {e.kind for e in exchanges}}


@pytest.mark.parametrize(
    "devices", [4, pytest.param(2, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
)
def test_weights_are_gathered_twice_and_their_gradients_added_up_once(devices):
    """XLA adds up gradients on a CPU by an all-reduce of the whole, of which each device keeps its part."""
    found, local = gradient_collectives(DENSE, {"fsdp": devices})
    count = added(local.weight_exchanges(has_gradients=True))
    assert found["all-gather"] == pytest.approx(count["all-gather"], rel=0.01)
    summed = count["reduce-scatter"] + count["all-reduce"]
    assert found.get("reduce-scatter", 0) + found["all-reduce"] == pytest.approx(summed, rel=0.1)


@pytest.mark.parametrize(
    "devices",
    [
        pytest.param(2, marks=pytest.mark.slow),
        pytest.param(4, marks=pytest.mark.slow),
        pytest.param(8, marks=pytest.mark.slow),
    ],
)
def test_the_ring_sends_what_the_count_says(devices):
    found, local = gradient_collectives(RING, {"expert": devices})
    count = added(local.expert_exchanges(passes=1, has_gradients=True))
    assert found["all-gather"] == count["all-gather"]
    assert found["reduce-scatter"] == count["reduce-scatter"]
