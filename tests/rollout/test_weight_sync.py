"""The sampler's copy of the weights: its numbers, its layout, what it takes, what is refused."""

import dataclasses
import functools
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models.transformer import make_model
from r1jax.rollout.engine import make_engine
from r1jax.rollout.weight_sync import (
    WeightSync,
    make_layer_reshard,
    make_reshard,
    make_rollout_mesh,
    rollout_shardings,
    to_rollout,
)
from r1jax.sharding import axes_of, make_mesh, partition_spec, tree_shardings
from r1jax.specs.rollout import EngineSpec
from tests.kernels.tpu_aot import mesh_of, tpu_compile
from tests.tiny import GQA, V3, padded, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

MTP = dataclasses.replace(V3, num_layers=2, num_mtp_layers=1)
TRAIN = {"fsdp": 2, "expert": 2, "tensor": 2}


def placed(model, mesh):
    trees = zip(shaken(model), model.logical_axes(), model.abstract(), strict=True)
    params, buffers = (jax.device_put(tree, tree_shardings(axes, shapes, mesh)) for tree, axes, shapes in trees)
    return {"params": params, "buffers": buffers}


def assert_cast(got, want, dtype):
    def check(path, copy, array):
        in_float32 = path[-1].key in ("scale", "w_router_DE")
        assert copy.dtype == (jnp.float32 if in_float32 else dtype), path
        np.testing.assert_array_equal(copy, np.asarray(array).astype(copy.dtype), err_msg=str(path))

    jax.tree.map_with_path(check, got, want)


@pytest.mark.parametrize(
    ("axes", "config", "matrix", "split"),
    [
        (TRAIN, MTP, ("moe", "ffn", "w_gate_EDF"), [(), ("expert", "fsdp"), (), ("tensor",)]),
        ({"expert": 2, "tensor": 2, "first_device": 4}, GQA, ("dense", "ffn", "w_up_DF"), [(), (), ("tensor",)]),
    ],
    ids=["rearranged", "other devices"],
)
def test_values_types_and_layout(axes, config, matrix, split):
    model = make_model(dataclasses.replace(config, dtype="bfloat16"))
    mesh = make_mesh({"fsdp": 2, "tensor": 2} if "first_device" in axes else TRAIN)
    state = placed(model, mesh)
    before = jax.tree.map(np.asarray, state)
    sync = WeightSync(model, mesh=mesh, axes=axes)
    with sync.lend(state) as lent:
        assert jax.sharding.get_mesh() == sync.mesh
        assert_cast(lent["params"], before["params"], jnp.bfloat16)
        jax.tree.map(np.testing.assert_array_equal, lent["buffers"], before["buffers"])
        want = rollout_shardings(model, sync.mesh)
        jax.tree.map(
            lambda a, s: a.sharding.is_equivalent_to(s, a.ndim) or pytest.fail(str(s)), lent["params"], want[0]
        )
        assert all(a.sharding.device_set == set(sync.mesh.devices.flat) for a in jax.tree.leaves(lent))
        leaf = functools.reduce(dict.get, matrix, lent["params"])
        assert [*map(axes_of, leaf.sharding.spec)] == split
    assert lent == {}
    jax.tree.map(np.testing.assert_array_equal, state, before)  # and none was donated


def test_without_axes_the_arrays_are_the_trainers():
    model, mesh = make_model(GQA), make_mesh()
    state = placed(model, mesh)
    with WeightSync(model, mesh=mesh, axes=None).lend(state) as lent:
        assert lent["params"] is state["params"] and lent["buffers"] is state["buffers"]


def test_a_sampler_of_another_type_gets_a_copy_and_computes_in_it():
    """Log-probs are those of the model in that type, and near the trainer's."""
    model, mesh = make_model(GQA), make_mesh()
    state = placed(model, mesh)
    engine, options = make_engine(model, EngineSpec(dtype="bfloat16")), {"max_new_tokens": 6, "key": jax.random.key(0)}
    assert engine.model == make_model(dataclasses.replace(GQA, dtype="bfloat16"))
    with WeightSync(model, mesh=mesh, axes=None, dtype="bfloat16").lend(state) as lent:
        assert_cast(lent["params"], jax.tree.map(np.asarray, state["params"]), jnp.bfloat16)
        ((done,),) = engine.generate(lent["params"], lent["buffers"], [[5, 40, 17]], stop_ids=(), **options)
    ((cast,),) = engine.generate(state["params"], state["buffers"], [[5, 40, 17]], stop_ids=(), **options)
    np.testing.assert_array_equal(done.logps, cast.logps)  # the same bits, cast once or at every use
    ids = np.array([[5, 40, 17, *done.token_ids]])
    where = {"positions_BT": np.arange(8)[None], "segments_BT": np.ones((1, 8), np.int32)}
    hidden, _, _ = model.hidden(state["params"], state["buffers"], ids[:, :-1], **where)
    logps, _ = model.token_logprob(state["params"], hidden, ids[:, 1:])
    difference = np.abs(np.asarray(logps)[0, 2:] - done.logps)
    assert 1e-4 < difference.max() < 0.2
    with WeightSync(model, mesh=mesh, axes=None, dtype="float32").lend(state) as lent:
        assert lent["params"] is state["params"]


def test_the_copy_is_freed_with_the_context():
    model, mesh = make_model(dataclasses.replace(GQA, dtype="bfloat16")), make_mesh()
    state = placed(model, mesh)
    with WeightSync(model, mesh=mesh, axes={}).lend(state) as lent:
        copies = [weakref.ref(a) for a in jax.tree.leaves(lent["params"]) if a.dtype == jnp.bfloat16]
        assert len(copies) >= 8 and all(copy() is not None for copy in copies)
    assert all(copy() is None for copy in copies)


def test_what_needs_no_change_is_not_copied():
    model, mesh = make_model(GQA), make_mesh()
    state = placed(model, mesh)
    with WeightSync(model, mesh=mesh, axes={}).lend(state) as lent:
        assert all(a is b for a, b in zip(*map(jax.tree.leaves, (lent["params"], state["params"])), strict=True))


@pytest.mark.parametrize("config", [GQA, V3], ids=["gqa", "v3"])
def test_a_cast_copy_gives_the_same_bits(config):
    """Teacher forcing and decode: a weight that somebody uses in float32 would show here."""
    model = make_model(dataclasses.replace(config, num_layers=config.num_dense_layers + 1, dtype="bfloat16"))
    params, buffers = shaken(model)
    copy, _ = to_rollout(model, params, buffers, shardings=rollout_shardings(model, make_mesh()))
    assert copy["embed_VD"].dtype == jnp.bfloat16
    rng = np.random.default_rng(0)
    tokens, positions, segments = padded([rng.integers(1, 48, n).tolist() for n in (3, 20, 15, 11)])

    @jax.jit
    def run(params):
        hidden, _, _ = model.hidden(params, buffers, tokens, positions_BT=positions, segments_BT=segments)
        first = {"positions_BT": positions[:, -1:], "segments_BT": segments[:, :1]}
        cache = model.init_cache(batch=4, length=3)
        decoded, _, _ = model.hidden(params, buffers, tokens[:, :1], **first, cache=cache)
        return model.token_logprob(params, hidden, jnp.roll(tokens, -1, axis=1)), model.logits(params, decoded)

    jax.tree.map(np.testing.assert_array_equal, run(copy), run(params))


def test_weights_that_are_only_sampled_from_are_given_up_one_by_one():
    model, mesh = make_model(dataclasses.replace(GQA, dtype="bfloat16")), make_mesh()
    state = placed(model, mesh)
    want = jax.tree.map(np.asarray, state["params"])
    params, _ = to_rollout(model, **state, shardings=rollout_shardings(model, mesh), is_consumed=True)
    assert_cast(params, want, jnp.bfloat16)
    given = jax.tree.leaves(state["params"])
    kept = {id(a) for a in jax.tree.leaves(params)}
    assert all(a.is_deleted() or id(a) in kept for a in given) and sum(a.is_deleted() for a in given) >= 8


@pytest.mark.parametrize(
    ("axes", "layers"), [(TRAIN, 0.6), ({"expert": 4, "tensor": 2}, 0.6), ({"expert": 8}, 3.1), ({"data": 8}, 3.1)]
)
def test_peak_memory_is_of_one_layer(axes, layers):
    """Beside the copy, in layers of the bfloat16 array as a whole; at once the eight layers take up to 24."""
    mesh, shape = make_mesh(TRAIN), (8, 16, 64, 32)
    names = (None, "experts", "embed", "mlp")
    rollout = make_rollout_mesh(axes, mesh)
    source, target = (
        jax.sharding.NamedSharding(m, partition_spec(names, shape, m, role=role))
        for m, role in ((mesh, "train"), (rollout, "rollout"))
    )
    array = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=source)
    copy = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=target)
    by_layer = make_layer_reshard(target, copy.dtype).lower(copy, array, 0).compile().memory_analysis()
    at_once = make_reshard(target, copy.dtype).lower(array).compile().memory_analysis()
    assert by_layer.alias_size_in_bytes == by_layer.output_size_in_bytes  # the copy itself is filled in place
    taken = [program.temp_size_in_bytes / (2 * 16 * 64 * 32) for program in (by_layer, at_once)]
    assert taken[0] <= layers and taken[1] > 3 * taken[0], taken


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"tensor": 2}, "is of 2 devices, and the trainer has 4; make its product 4"),
        ({"tensor": 4, "first_device": 2}, r"takes the devices \[2, 3\], which are the trainer's"),
        ({"tensor": 4, "first_device": 5}, "first_device=5 on is of 4 devices; there are 8"),
    ],
)
def test_bad_meshes_are_named(axes, words):
    with pytest.raises(ValueError, match=f"rollout_mesh.*{words}"):
        make_rollout_mesh(axes, make_mesh({"data": 4}))


def test_devices_of_its_own_take_a_single_process(monkeypatch):
    mesh = make_mesh({"data": 4})
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="takes a single process, and this run has 2"):
        make_rollout_mesh({"data": 4, "first_device": 4}, mesh)


def test_an_axis_that_does_not_divide_a_parameter_is_named():
    with pytest.raises(ValueError, match=r"w_down_EFD .*'expert' of 8 does not divide 'experts', which is 4"):
        model = make_model(dataclasses.replace(V3, num_experts=4, num_groups=2, num_groups_per_token=1))
        WeightSync(model, mesh=make_mesh({"data": 8}), axes={"expert": 8})


@tpu_compile
def test_on_a_tpu_one_layer_is_exchanged(generation):
    """Of 8 layers of 16 experts, 2048 x 1024, from {"fsdp": 2, "expert": 2} by "train" to four experts a device."""
    mesh, shape = mesh_of(generation, {"fsdp": 2, "expert": 2}), (8, 16, 2048, 1024)
    names = (None, "experts", "embed", "mlp")
    source, target = (
        jax.sharding.NamedSharding(mesh, partition_spec(names, shape, mesh, role=role)) for role in ("train", "rollout")
    )
    array = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=source)
    copy = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=target)
    compiled = make_layer_reshard(target, copy.dtype).lower(copy, array, 0).compile()
    memory, text, layer = compiled.memory_analysis(), compiled.as_text(), 2 * 16 * 2048 * 1024
    assert memory.alias_size_in_bytes == 8 * layer // 4 and memory.temp_size_in_bytes <= layer
    assert "bf16" in text.partition(" all-to-all(")[0].splitlines()[-1] and "all-gather" not in text  # cast, then moved
