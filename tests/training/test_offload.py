"""Moments and reference in the host's memory: the same updates, checkpoints, and what a TPU's compiler makes of it."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.sharding import make_mesh
from r1jax.specs.training import OptimizerSpec
from r1jax.training import offload
from r1jax.training.checkpoint import Checkpoints, load_checkpoint
from r1jax.training.learner import copy_tree, init_state, make_update, update_once
from r1jax.training.optimizer import make_optimizer
from tests.kernels.tpu_aot import mesh_of, tpu_compile


def loss_function(params, buffers, batch):
    error_B = jnp.tanh(batch["x"] @ params["w"]) @ params["v"] - batch["y"]
    return jnp.sum(error_B**2), {"expert_counts": {}}


OPTIMIZER, SCHEDULE = make_optimizer(
    OptimizerSpec(learning_rate=0.01, moments_dtype="bfloat16", weight_decay=0.1), total_steps=9
)


def run(*, is_offloaded):
    """(state, update) after two updates, on eight devices; the state has a reference."""
    rng = np.random.default_rng(0)
    arrays = {"w": rng.normal(size=(16, 8)), "v": rng.normal(size=(8,))}
    sharding = NamedSharding(make_mesh({"fsdp": 8}), PartitionSpec("fsdp"))
    params = {name: jax.device_put(array.astype(np.float32), sharding) for name, array in arrays.items()}
    state = init_state(params, {}, optimizer=OPTIMIZER)
    if is_offloaded:
        state["opt_state"] = offload.to_host_memory(state["opt_state"])
        state["reference"] = offload.to_host_memory(state["params"])
    else:
        state["reference"] = copy_tree(state["params"])
    update = make_update(loss_function, OPTIMIZER, schedule=SCHEDULE, state=state)
    batch = {"x": rng.normal(size=(4, 16)).astype(np.float32), "y": rng.normal(size=(4,)).astype(np.float32)}
    for _ in range(2):
        state, *_ = update_once(state, update, [batch])
    return state


def kinds(tree):
    return {array.sharding.memory_kind for array in jax.tree.leaves(tree) if array.ndim}


@pytest.fixture(scope="module")
def state():
    return run(is_offloaded=True)


def test_updates_are_the_same_and_it_stays_in_the_hosts_memory(state):
    want = run(is_offloaded=False)
    jax.tree.map(np.testing.assert_array_equal, state, want)
    assert kinds(state["opt_state"]) == kinds(state["reference"]) == {"pinned_host"}
    assert kinds(state["params"]) == kinds(want) == {"device"}
    assert {a.dtype.name for a in jax.tree.leaves(optax.tree.get(state["opt_state"], "mu"))} == {"bfloat16"}
    assert not np.array_equal(state["reference"]["w"], state["params"]["w"])  # it is a copy of what was


def test_to_device_brings_back_what_is_away_and_nothing_else(state):
    reference = offload.to_device_memory(state["reference"])
    assert kinds(reference) == {"device"} and kinds(state["reference"]) == {"pinned_host"}
    jax.tree.map(np.testing.assert_array_equal, reference, state["reference"])
    assert (
        offload.to_device_memory(state["params"])["w"] is state["params"]["w"]
        and offload.to_device_memory(None) is None
    )


def test_checkpoints_come_back_bit_for_bit_and_to_the_same_memory(state, tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state, extra={})
    restored, _ = load_checkpoint(tmp_path, state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert jax.tree.map(lambda a: a.sharding, restored) == jax.tree.map(lambda a: a.sharding, state)
    on_device, _ = load_checkpoint(tmp_path, offload.to_device_memory(state))
    assert kinds(on_device) == {"device"}


def test_what_cannot_be_is_named():
    devices = jax.local_devices()
    offload.check_offload([], devices=[None])
    offload.check_offload(["optimizer"], devices=devices)
    memory = types.SimpleNamespace(kind="device")
    device = types.SimpleNamespace(platform="abacus", device_kind="beads", addressable_memories=lambda: [memory])
    words = (
        r"offload=\['optimizer'\] needs memory of the kind 'pinned_host', and beads on the platform 'abacus' has \['dev"
    )
    with pytest.raises(ValueError, match=words):
        offload.check_offload(["optimizer"], devices=[device])


@tpu_compile
def test_on_a_tpu_they_are_arguments_in_the_hosts_memory(generation):
    """Bytes a device: 2 matrices of 4 MiB in float32, over 4 devices, with bfloat16 moments of half of it each."""
    mesh = mesh_of(generation, {"fsdp": 4})
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("fsdp",), ()))
    params = {name: jax.ShapeDtypeStruct((1024, 1024), jnp.float32, sharding=split) for name in "ab"}
    opt_state = optax.tree.map_params(
        OPTIMIZER,
        lambda moment: jax.ShapeDtypeStruct(moment.shape, moment.dtype, sharding=split),
        jax.eval_shape(OPTIMIZER.init, params),
        transform_non_params=lambda count: jax.ShapeDtypeStruct(count.shape, count.dtype, sharding=whole),
    )
    state = {"step": jax.ShapeDtypeStruct((), jnp.int32, sharding=whole), "params": params, "buffers": {}}
    state["opt_state"] = offload.to_host_memory(opt_state)
    update = make_update(loss_function, OPTIMIZER, schedule=SCHEDULE, state=state)
    layout = jax.tree.map(lambda array: array.sharding, state)
    apply = jax.jit(update.apply, donate_argnums=0, out_shardings=(layout, whole))
    memory = apply.lower(state, params).compile().memory_analysis()
    assert memory.host_argument_size_in_bytes == memory.host_output_size_in_bytes == 2 * 2**20
    assert memory.host_alias_size_in_bytes == 2 * 2**20  # given and taken back in place
    assert memory.argument_size_in_bytes < 4.1 * 2**20  # parameters and gradients alone
    reference = offload.to_host_memory(params)
    shardings = jax.tree.map(lambda array: array.sharding, reference)
    fetch = jax.jit(lambda tree: offload.to_device_memory(tree, shardings)).lower(reference).compile().memory_analysis()
    assert fetch.host_argument_size_in_bytes == 2 * 2**20 and fetch.host_output_size_in_bytes == 0
