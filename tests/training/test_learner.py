import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.sharding import make_mesh
from r1jax.specs.training import OptimizerSpec
from r1jax.training.learner import balance_bias, copy_tree, init_state, make_update
from r1jax.training.optimizer import make_optimizer


def loss_function(params, buffers, batch):
    prediction_B = jnp.tanh(batch["x"] @ params["w"] * params["scale"]) @ params["v"]
    error_B = prediction_B - batch["y"]
    return jnp.sum(batch["weight"] * error_B**2), {"tokens": jnp.sum(batch["weight"] > 0)}


def make_batch(rows, seed=0):
    x_key, y_key = jax.random.split(jax.random.key(seed))
    return {
        "x": jax.random.normal(x_key, (rows, 4)),
        "y": jax.random.normal(y_key, (rows,)),
        "weight": jnp.full((rows,), 1 / 8),
    }


@pytest.fixture(scope="module")
def setup():
    optimizer, schedule = make_optimizer(
        OptimizerSpec(learning_rate=0.01, warmup_steps=10, weight_decay=0.1), total_steps=100
    )
    params = {
        "w": jax.random.normal(jax.random.key(1), (4, 8)),
        "scale": jnp.ones((8,)),
        "v": jax.random.normal(jax.random.key(2), (8,)),
    }
    buffers = {"moe": {"router_bias": jnp.zeros((2, 4))}}

    def state():
        return init_state(params, buffers, optimizer=optimizer)

    return state, make_update(loss_function, optimizer, schedule=schedule, state=state(), bias_rate=0.01)


def as_numpy(tree):
    return jax.tree.map(np.array, tree)


def assert_trees_equal(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def run(update, state, batches, counts=None):
    sums = update.zeros(batches[0])
    for batch in batches:
        sums = update.accumulate(state["params"], state["buffers"], *sums, batch)
    return update.apply(state, sums[0], counts), sums[1]


def test_accumulation_equals_one_big_batch(setup):
    make_state, update = setup
    batch = make_batch(8)
    micro = [jax.tree.map(lambda a, i=i: a[2 * i : 2 * i + 2], batch) for i in range(4)]
    (whole, whole_info), whole_metrics = run(update, make_state(), [batch])
    (parts, parts_info), parts_metrics = run(update, make_state(), micro)
    assert int(whole_metrics["tokens"]) == int(parts_metrics["tokens"]) == 8
    np.testing.assert_allclose(parts_metrics["loss"], whole_metrics["loss"], rtol=1e-6)
    np.testing.assert_allclose(parts_info["grad_norm"], whole_info["grad_norm"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), parts["params"], whole["params"])


def test_norms_and_learning_rate(setup):
    make_state, update = setup
    state, batch = make_state(), make_batch(8)
    before = as_numpy(state["params"])
    grads = as_numpy(jax.grad(lambda p: loss_function(p, None, batch)[0])(state["params"]))
    (after, info), _ = run(update, state, [batch])

    def norm(tree):
        return np.sqrt(sum(float(np.sum(np.square(leaf, dtype=np.float64))) for leaf in jax.tree.leaves(tree)))

    moved = jax.tree.map(lambda a, b: np.array(a) - b, after["params"], before)
    np.testing.assert_allclose(info["grad_norm"], norm(grads), rtol=1e-5)
    np.testing.assert_allclose(info["update_norm"], norm(moved), rtol=1e-3)
    np.testing.assert_allclose(info["param_norm"], norm(as_numpy(after["params"])), rtol=1e-6)
    np.testing.assert_allclose(info["learning_rate"], 0.001, rtol=1e-6)  # first of ten warm-up updates to 0.01
    assert bool(info["finite"]) and int(after["step"]) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_gradient_leaves_the_state(setup, bad):
    make_state, update = setup
    (state, _), _ = run(update, make_state(), [make_batch(8)])
    before = as_numpy(state)
    batch = make_batch(8)
    batch["y"] = batch["y"].at[3].set(bad)
    (state, info), _ = run(update, state, [batch], {"moe": {"router_bias": jnp.array([[1, 0, 0, 0]] * 2)}})
    assert not bool(info["finite"])
    assert_trees_equal(as_numpy(state), before)
    (state, info), _ = run(update, state, [make_batch(8)])  # and it can go on
    assert bool(info["finite"]) and int(state["step"]) == 2


def test_router_bias_moves_by_sign_and_only_by_counts(setup):
    make_state, update = setup
    state = make_state()
    (state, info), _ = run(update, state, [make_batch(8)])
    np.testing.assert_array_equal(state["buffers"]["moe"]["router_bias"], np.zeros((2, 4)))
    assert "moe/load_max_over_mean" not in info
    # Layer 0: mean 4. Layer 1: mean 2, expert 2 exactly at it.
    counts = {"moe": {"router_bias": jnp.array([[16, 0, 0, 0], [3, 1, 2, 2]])}}
    (state, info), _ = run(update, state, [make_batch(8)], counts)
    want = [[-0.01, 0.01, 0.01, 0.01], [-0.01, 0.01, 0, 0]]
    np.testing.assert_allclose(state["buffers"]["moe"]["router_bias"], want, rtol=1e-6)
    np.testing.assert_allclose(info["moe/load_max_over_mean"], 4.0)
    loads = {name: float(value) for name, value in info.items() if name.startswith("moe/load/")}
    assert loads == {"moe/load/moe_00": 4.0, "moe/load/moe_01": 1.5}


def test_bias_of_a_layer_without_tokens_stays():
    got = balance_bias(jnp.array([[0.5, -0.5]]), jnp.array([[0, 0]]), rate=0.1)
    np.testing.assert_array_equal(got, [[0.5, -0.5]])


def test_other_keys_pass_and_the_reference_survives(setup):
    make_state, update = setup
    state = make_state()
    state["reference"] = copy_tree(state["params"])
    before = as_numpy(state["reference"])
    (state, _), _ = run(update, state, [make_batch(8)])
    assert_trees_equal(as_numpy(state["reference"]), before)
    assert np.abs(np.array(state["params"]["w"]) - before["w"]).max() > 1e-5


def test_init_makes_float32_copies():
    optimizer, _ = make_optimizer(OptimizerSpec(learning_rate=0.1), total_steps=10)
    params = {"w": jnp.ones((2, 2), jnp.bfloat16), "v": jnp.ones((2,), jnp.float32)}
    state = init_state(params, {}, optimizer=optimizer)
    assert state["params"]["w"].dtype == jnp.float32
    state["params"]["v"].delete()
    np.testing.assert_array_equal(params["v"], [1, 1])


def test_compiles_once(setup):
    make_state, update = setup
    state = make_state()
    run(update, state, [make_batch(8)])
    compiled = update.accumulate._cache_size(), update.zeros._cache_size()
    state = make_state()
    for seed in range(3):
        (state, _), _ = run(update, state, [make_batch(8, seed), make_batch(8, seed + 1)])
    assert (update.accumulate._cache_size(), update.zeros._cache_size()) == compiled


def test_counts_of_another_shape_are_refused(setup):
    make_state, update = setup
    state = make_state()
    sums = update.zeros(make_batch(8))
    with pytest.raises(ValueError, match=r"expert counts of shapes \[\(4,\)\], router biases of shapes \[\(2, 4\)\]"):
        update.apply(state, sums[0], jnp.zeros((4,)))


def train_three_updates(mesh, specs):
    def put(array, spec):
        return array if mesh is None else jax.device_put(array, NamedSharding(mesh, spec))

    optimizer, schedule = make_optimizer(OptimizerSpec(learning_rate=0.01, weight_decay=0.1), total_steps=10)
    shapes = {"w": (4, 8), "scale": (8,), "v": (8,)}
    params = {name: put(jax.random.normal(jax.random.key(1), shapes[name]), spec) for name, spec in specs.items()}
    state = init_state(params, {"bias": jnp.zeros((1, 4))}, optimizer=optimizer)
    update = make_update(loss_function, optimizer, schedule=schedule, state=state)
    batch = {name: put(value, PartitionSpec("data")) for name, value in make_batch(8).items()}
    for _ in range(3):
        sums = update.accumulate(state["params"], state["buffers"], *update.zeros(batch), batch)
        state, info = update.apply(state, sums[0], jnp.array([[4, 0, 1, 2]]))
    return state, info, update


def test_sharded_equals_alone():
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    specs = {"w": PartitionSpec("fsdp", "tensor"), "scale": PartitionSpec(), "v": PartitionSpec("tensor")}
    alone, alone_info, _ = train_three_updates(None, specs)
    state, info, update = train_three_updates(mesh, specs)
    assert state["params"]["w"].sharding.spec == specs["w"]
    moments = [array for array in jax.tree.leaves(state["opt_state"]) if array.shape == (4, 8)]
    assert [moment.sharding.spec for moment in moments] == [specs["w"]] * 2
    assert update.accumulate._cache_size() == update.zeros._cache_size() == 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.array(a), np.array(b), atol=2e-6), state, alone)
    np.testing.assert_allclose(info["grad_norm"], alone_info["grad_norm"], rtol=1e-5)
