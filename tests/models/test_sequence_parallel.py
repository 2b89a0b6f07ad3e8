"""Rows whose tokens are spread over the mesh equal whole ones on one device: hidden states, loss, gradients, counts."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels import flash_attention
from r1jax.models.sequence_parallel import attend_over_sequence
from r1jax.models.transformer import make_model
from r1jax.sharding import make_mesh, tree_shardings
from tests.tiny import GQA, V3, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

MOE = dataclasses.replace(V3, num_layers=1, num_dense_layers=0)
MODELS = {
    "gqa": make_model(dataclasses.replace(GQA, num_layers=1)),
    "v3": make_model(dataclasses.replace(MOE, remat="full")),
    "v3 and all_to_all": make_model(dataclasses.replace(MOE, expert_parallel="all_to_all")),
}
CASES = [
    ("gqa", {"sequence": 4, "tensor": 2}),
    ("v3", {"sequence": 8}),
    ("v3", {"fsdp": 2, "sequence": 2, "tensor": 2}),
    ("v3 and all_to_all", {"expert": 4, "sequence": 2}),
]


def packed_rows():
    """Four rows of 16 tokens, of several sequences each, none of which ends where a device's part does; padding at the end.

    In the third row the second and third go on from the first.
    """
    rng = np.random.default_rng(0)
    segments, positions, prefixes = np.zeros((3, 4, 16), np.int32)
    for row, lengths in enumerate([(16,), (5, 9), (3, 3, 7), (11, 2, 1)]):
        ends = np.cumsum(lengths)
        for number, (end, length) in enumerate(zip(ends, lengths, strict=True), start=1):
            segments[row, end - length : end], positions[row, end - length : end] = number, np.arange(length)
    prefixes[2][segments[2] > 1] = 1
    positions[2] += 3 * prefixes[2]
    tokens = rng.integers(1, 48, (4, 16)).astype(np.int32)
    return tokens, {"positions_BT": positions, "segments_BT": segments, "prefixes_BT": prefixes}


def value_and_gradient(model, buffers):
    """Compiled function of params: ((loss, (hidden, aux)), gradient)."""
    tokens, where = packed_rows()
    segments = where["segments_BT"]

    def loss(params):
        hidden, _, aux = model.hidden(params, buffers, tokens, **where, balance=True)
        logp, entropy = model.token_logprob(params, hidden, jnp.roll(tokens, -1, axis=1))
        total = jnp.where(segments > 0, logp + 0.1 * entropy, 0.0).sum() + jnp.sum(aux.get("balance_L", 0.0))
        return total, (jnp.where(segments[..., None] > 0, hidden, 0.0), aux)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.fixture(scope="module")
def single():
    results = {}

    def get(name):
        kind = name.split()[0]
        if kind not in results:
            params, buffers = shaken(MODELS[kind])
            results[kind] = jax.tree.map(np.asarray, value_and_gradient(MODELS[kind], buffers)(params))
        return results[kind]

    return get


@pytest.mark.parametrize(("name", "axes"), CASES, ids=str)
def test_spread_rows_equal_whole_ones(name, axes, single, monkeypatch):
    (want_loss, (want_hidden, want_aux)), want_gradient = single(name)
    model, mesh = MODELS[name], make_mesh(axes)
    attend, seen = flash_attention.reference.attention, []

    def attention(q_BTNH, k_BSJH, v_BSJU, **options):
        seen.append((q_BTNH.shape[1], k_BSJH.shape[1]))
        return attend(q_BTNH, k_BSJH, v_BSJU, **options)

    monkeypatch.setattr(flash_attention.reference, "attention", attention)
    with jax.set_mesh(mesh):
        trees = shaken(model)
        layouts = map(partial(tree_shardings, mesh=mesh), model.logical_axes(), trees)
        params, buffers = map(jax.device_put, trees, layouts)
        (loss, (hidden, aux)), gradient = value_and_gradient(model, buffers)(params)
    assert set(seen) == {(16 // axes["sequence"] // 2, 16)}  # each device has two pieces of the queries and all keys
    np.testing.assert_allclose(loss, want_loss, rtol=1e-5)
    np.testing.assert_allclose(hidden, want_hidden, atol=2e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), gradient, want_gradient)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), aux, want_aux)


def who_sees_how_much(length):
    """For rows of ``length`` tokens on four devices: [length, 3] of a query's place, its device and the keys it sees."""
    place = jnp.arange(length, dtype=jnp.float32)[None, :, None, None]

    def attend_to(keys, _):
        def attend(queries, q_offset):
            before = q_offset + jnp.arange(queries["place"].shape[1])[:, None]
            num_seen = (keys["place"][:, None, :, 0, 0] <= before).sum(-1)
            device = jnp.full(num_seen.shape, jax.lax.axis_index("sequence"))
            return jnp.stack([queries["place"][..., 0, 0], device, num_seen], axis=-1)[:, :, None]

        return attend

    named = {"place": (place, (None, "length", None, None))}
    with jax.set_mesh(make_mesh({"sequence": 4})):
        return np.asarray(attend_over_sequence(attend_to, named, named, {}, is_training=True))[0, :, 0].T


def test_devices_see_equally_many_keys():
    place, device, num_seen = who_sees_how_much(16)
    assert place.tolist() == list(range(16))
    assert device.tolist() == [0, 0, 3, 3, 1, 1, 2, 2, 2, 2, 1, 1, 3, 3, 0, 0]
    assert num_seen.tolist() == list(range(1, 17))
    assert np.bincount(device.astype(int), num_seen).tolist() == [34, 34, 34, 34]


def test_a_part_of_odd_length_stays_where_it_is():
    place, device, num_seen = who_sees_how_much(4)
    assert place.tolist() == device.tolist() == [0, 1, 2, 3]
    assert num_seen.tolist() == [1, 2, 3, 4]


def test_a_row_that_the_axis_does_not_divide_raises():
    model = MODELS["gqa"]
    params, buffers = model.abstract()
    arrays = [jax.ShapeDtypeStruct((2, 10), jnp.int32)] * 3
    with (
        jax.set_mesh(make_mesh({"sequence": 4})),
        pytest.raises(
            ValueError, match="rows of 10 tokens do not divide over the mesh's 'sequence' axis of 4; make the row"
        ),
    ):
        jax.eval_shape(
            lambda params, buffers, tokens, positions, segments: model.hidden(
                params, buffers, tokens, positions_BT=positions, segments_BT=segments
            ),
            params,
            buffers,
            *arrays,
        )
