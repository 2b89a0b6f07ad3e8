"""Each way of expert parallelism on eight simulated devices equals the layer on one: output, gradients, counts."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.kernels import hardware
from r1jax.kernels.route import route
from r1jax.models import expert_parallel
from r1jax.models.expert_exchange import _windows, in_rounds, local_experts
from r1jax.models.expert_parallel import max_destinations
from r1jax.models.moe import MoE
from r1jax.models.presets import make_preset
from r1jax.sharding import make_mesh
from tests.kernels.tpu_aot import TOPOLOGIES, kernels, tpu_compile
from tests.tiny import V3

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Four experts a token in two of four groups: on a mesh of four a token goes to two devices at most.
CONFIG = dataclasses.replace(V3, num_experts_per_token=4, num_shared_experts=0)
ONE = dataclasses.replace(CONFIG, num_experts_per_token=1, num_groups_per_token=1)
B, T, D, E = 8, 6, 32, 8
WAYS = ("ring", "all_to_all", "ragged_all_to_all")


@functools.cache
def layer():
    """(graph, params, router bias) of numbers from numpy."""
    graph, state = nnx.split(nnx.eval_shape(lambda: MoE(CONFIG, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    leaves, tree = jax.tree.flatten(state)
    params = jax.tree.unflatten(tree, [rng.normal(size=a.shape).astype(np.float32) * 0.2 for a in leaves])
    return graph, params


ROUTINGS = {
    "router": (CONFIG, np.zeros(E, np.float32)),
    "empty": (CONFIG, np.where(np.arange(E) < 4, 4, 0).astype(np.float32)),
    "one": (ONE, np.where(np.arange(E) == 5, 4, 0).astype(np.float32)),
}
"""(Config, what is added to the router's bias): as the router has it, experts 4 to 7 without a token, all of one expert."""


def inputs():
    rng = np.random.default_rng(2)
    segments = np.ones((B, T), np.int32)
    segments[3, 4:] = 0
    return rng.normal(size=(2, B, T, D)).astype(np.float32), segments


def value_and_gradient(config, role="train", replayed_BTK=None):
    """Compiled function of (params, x, added bias): ((loss, (output, counts)), gradients of params and x)."""
    graph, _ = layer()
    (_, dout), segments = inputs()

    def loss(params, x, bias):
        module = nnx.merge(graph, params)
        module.config = config
        module.router_bias_E[...] += bias
        out, routing = module(x, segments_BT=segments, role=role, record=True, replayed_BTK=replayed_BTK)
        return (out * dout).sum(), (out, routing)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True, allow_int=True))


@functools.cache
def on_one_device(name):
    (x, _), _ = inputs()
    config, bias = ROUTINGS[name]
    result = plain(config)(layer()[1], x, bias)
    assert all(len(array.sharding.device_set) == 1 for array in jax.tree.leaves(result))
    return jax.tree.map(np.asarray, result)


@functools.cache
def plain(config):
    return value_and_gradient(config)


def check(got, want):
    (_, (out, routing)), gradients = got
    (_, (want_out, want_routing)), want_gradients = want
    np.testing.assert_allclose(out, want_out, atol=2e-5)
    for name in ("expert_counts_E", "experts_BTK"):
        np.testing.assert_array_equal(routing[name], want_routing[name])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5), gradients, want_gradients)


def ragged_all_to_all_on_a_cpu(operand, output, input_offsets, send_sizes, output_offsets, recv_sizes, *, axis_name):
    """What ``jax.lax.ragged_all_to_all`` says it does, from an all-gather of everything."""
    me, operands = lax.axis_index(axis_name), lax.all_gather(operand, axis_name)
    inputs, sizes, outputs = (lax.all_gather(a, axis_name)[:, me] for a in (input_offsets, send_sizes, output_offsets))
    place = jnp.arange(len(output))
    for sender in range(len(operands)):
        is_here = (place >= outputs[sender]) & (place < outputs[sender] + sizes[sender])
        rows = operands[sender].at[place - outputs[sender] + inputs[sender]].get(mode="clip")
        output = jnp.where(is_here.reshape(-1, *[1] * (output.ndim - 1)), rows, output)
    return output


@pytest.fixture
def way(request, monkeypatch):
    """A way's name; the ragged collective, which a CPU does not have, is stood in for."""
    if request.param == "ragged_all_to_all":
        monkeypatch.setattr(expert_parallel, "hardware", types.SimpleNamespace(is_tpu=lambda: True))
        monkeypatch.setattr(lax, "ragged_all_to_all", ragged_all_to_all_on_a_cpu)
    return request.param


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_one_expert_a_device_with_every_routing(way):
    """The same program whatever the routing: one round, or as many as a single expert for all tokens needs."""
    (x, _), _ = inputs()
    want = {name: on_one_device(name) for name in ROUTINGS}
    functions = {
        config: value_and_gradient(dataclasses.replace(config, expert_parallel=way)) for config in (CONFIG, ONE)
    }
    with jax.set_mesh(make_mesh({"expert": 8})):
        for name, (config, bias) in ROUTINGS.items():
            check(functions[config](layer()[1], x, bias), want[name])
        assert functions[CONFIG]._cache_size() == 1
    assert want["one"][0][1][1]["expert_counts_E"].tolist() == [0, 0, 0, 0, 0, 46, 0, 0]
    assert want["empty"][0][1][1]["expert_counts_E"].tolist() == [46] * 4 + [0] * 4


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_groups_bound_the_copies_and_every_axis_plays_along(way):
    config = dataclasses.replace(CONFIG, expert_parallel=way, expert_capacity=0.3)  # several rounds
    assert max_destinations(config, 4) == 2
    (x, _), _ = inputs()
    want = on_one_device("router")
    with jax.set_mesh(make_mesh({"expert": 4, "tensor": 2})):
        check(value_and_gradient(config)(layer()[1], x, np.zeros(E, np.float32)), want)


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_experts_are_replayed_wherever_they_lie(way):
    """Those of a router with another bias, which keep to its groups."""
    (x, _), _ = inputs()
    bias = np.random.default_rng(4).normal(size=E).astype(np.float32)
    replayed = np.asarray(plain(CONFIG)(layer()[1], x, bias)[0][1][1]["experts_BTK"], np.uint8)
    arguments, config = (layer()[1], x, np.zeros(E, np.float32)), dataclasses.replace(CONFIG, expert_parallel=way)
    want = jax.tree.map(np.asarray, value_and_gradient(CONFIG, replayed_BTK=replayed)(*arguments))
    assert np.abs(want[0][1][0] - on_one_device("router")[0][1][0]).max() > 0.1
    with jax.set_mesh(make_mesh({"expert": 4, "tensor": 2})):
        check(value_and_gradient(config, replayed_BTK=replayed)(*arguments), want)


@pytest.mark.parametrize(("way", "role"), [("ring", "train"), ("all_to_all", "rollout")])
def test_rows_and_weights_spread_over_other_axes_too(way, role):
    """In the rollout's layout experts are over all three axes, in another order than the rows."""
    config = dataclasses.replace(CONFIG, expert_parallel=way)
    (x, _), _ = inputs()
    want = on_one_device("router")
    with jax.set_mesh(make_mesh({"fsdp": 2, "expert": 2, "sequence": 2})):
        check(value_and_gradient(config, role)(layer()[1], x, np.zeros(E, np.float32)), want)


def test_rows_that_do_not_divide_are_on_every_device_already():
    graph, params = layer()
    (x, _), segments = inputs()

    def forward(params, x):
        module = nnx.merge(graph, params)
        module.config = dataclasses.replace(CONFIG, expert_parallel="all_to_all")
        return module(x, segments_BT=segments[:3])[0]

    want = on_one_device("router")[0][1][0][:3]
    with jax.set_mesh(make_mesh({"expert": 8})):
        compiled = jax.jit(forward).lower(params, x[:3]).compile()
    np.testing.assert_allclose(compiled(params, x[:3]), want, atol=2e-5)
    assert "all-to-all" not in compiled.as_text()


def test_one_device_computes_as_it_always_did():
    texts = [
        jax.jit(value_and_gradient(config)).lower(layer()[1], inputs()[0][0], np.zeros(E, np.float32)).as_text()
        for config in (CONFIG, dataclasses.replace(CONFIG, expert_parallel="ring"))
    ]
    assert texts[0] == texts[1] and "shard" not in texts[0]


def test_what_a_cpu_cannot_run_is_an_error():
    config = dataclasses.replace(CONFIG, expert_parallel="ragged_all_to_all")
    with pytest.raises(
        ValueError, match="'ragged_all_to_all' needs a TPU, and this program is for 'cpu': take 'ring' or"
    ):
        jax.eval_shape(value_and_gradient(config), layer()[1], inputs()[0][0], np.zeros(E, np.float32))
    with pytest.raises(ValueError, match="expert_parallel must be one of .*'ring'.*, got 'psum'"):
        dataclasses.replace(CONFIG, expert_parallel="psum")
    with pytest.raises(ValueError, match="expert_capacity must be positive and finite, got 0"):
        dataclasses.replace(CONFIG, expert_capacity=0)


def test_a_token_of_v3_goes_to_so_many_devices_at_most():
    v3 = make_preset("deepseek_v3")  # 8 of 256 experts, in 4 of 8 groups
    assert [max_destinations(v3, n) for n in (1, 2, 4, 8, 16, 64, 256)] == [1, 2, 4, 4, 8, 8, 8]
    ungrouped = dataclasses.replace(v3, num_groups=1, num_groups_per_token=1)
    assert [max_destinations(ungrouped, n) for n in (4, 8, 16)] == [4, 8, 8]


def test_groups_on_nodes_bound_to_how_many_nodes_a_token_goes():
    """V3 Sec. 2.1.2: 8 groups of 32 experts, a group a node, a token on 4 nodes at most; unlimited, 5.25 in the mean."""
    v3 = make_preset("deepseek_v3")
    logits = jax.random.normal(jax.random.key(0), (512, v3.num_experts))

    def nodes_of(groups, groups_per_token):
        _, experts = route(
            logits, jnp.zeros(v3.num_experts), num_experts_per_token=8, num_groups=groups,
            num_groups_per_token=groups_per_token, scaling=2.5, best_per_group=2, normalize=True, score_function="sigmoid",
        )  # fmt: skip
        return [len(set(row)) for row in (np.asarray(experts) // 32).tolist()]

    limited, unlimited = nodes_of(v3.num_groups, v3.num_groups_per_token), nodes_of(1, 1)
    assert max(limited) == 4 and max(unlimited) > 6
    assert np.mean(unlimited) == pytest.approx(8 * (1 - (7 / 8) ** 8), abs=0.2)


def test_windows_send_every_pair_once_and_never_more_than_there_is_room():
    rng = np.random.default_rng(0)
    counts, size = rng.integers(0, 6, (4, 4)) * (rng.random((4, 4)) < 0.7), 7
    counts[:, 2] = 9  # a full receiver
    sent = [set() for _ in range(4)]
    for r in range(-(-counts.sum(0).max() // size)):
        start, length, arrival = map(np.asarray, _windows(r, jnp.asarray(counts), size))
        for receiver in range(4):
            places = [
                a for s in range(4) for a in range(arrival[s, receiver], arrival[s, receiver] + length[s, receiver])
            ]
            assert sorted(places) == list(range(len(places))) and len(places) <= size
            for sender in range(4):
                first = counts[sender, :receiver].sum()
                pairs = range(start[sender, receiver], start[sender, receiver] + length[sender, receiver])
                assert all(first <= pair < first + counts[sender, receiver] for pair in pairs)
                assert not sent[sender] & set(pairs)
                sent[sender] |= set(pairs)
    assert [len(pairs) for pairs in sent] == counts.sum(1).tolist()


@pytest.mark.parametrize("is_cpu", [True, False], ids=["xla", "ragged_dot"])
def test_pairs_of_experts_elsewhere_give_nothing(is_cpu, monkeypatch):
    monkeypatch.setattr(hardware, "is_cpu", lambda: is_cpu)
    rng = np.random.default_rng(0)
    x, (gate, up), down = rng.normal(size=(5, 16)), rng.normal(size=(2, 2, 16, 8)), rng.normal(size=(2, 8, 16))
    experts, weights = np.array([[0, 2], [1, 0], [2, 2], [1, 2], [1, 0]]), rng.uniform(size=(5, 2))
    want = np.zeros((5, 16))
    for row, k in zip(*np.nonzero(experts < 2), strict=True):
        e, g = experts[row, k], x[row] @ gate[experts[row, k]]
        want[row] += weights[row, k] * ((g / (1 + np.exp(-g)) * (x[row] @ up[e])) @ down[e])
    arguments = x, experts, weights, (gate, up, down)
    arguments = jax.tree.map(lambda a: jnp.asarray(a, jnp.int32 if a.dtype == int else jnp.float32), arguments)
    got = jax.jit(functools.partial(local_experts, capacity=4))(*arguments)  # six pairs: two rounds
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rounds", [1, 3])
def test_rounds_add_up_and_so_do_their_gradients(rounds):
    x, scale = jnp.array([0.3, -1.2]), jnp.array([2, 5])

    def one_round(r, x, scale):
        return jnp.sin(x * scale + r)

    def total(x, num_rounds):
        return in_rounds(one_round, num_rounds, x, scale).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(x, rounds)
    np.testing.assert_allclose(value, sum(np.sin(x * scale + r).sum() for r in range(rounds)), rtol=1e-6)
    np.testing.assert_allclose(gradient, sum(scale * np.cos(x * scale + r) for r in range(rounds)), rtol=1e-6)


@tpu_compile
@pytest.mark.parametrize("way", WAYS)
def test_layer_compiles_for_four_tpus_with_its_collective_and_kernels(generation, way):
    config = dataclasses.replace(make_preset("mini_v3"), expert_parallel=way)
    graph, state = nnx.split(nnx.eval_shape(lambda: MoE(config, rngs=nnx.Rngs(0))))
    params, rest = nnx.split_state(state, nnx.Param, ...)
    devices = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[generation]).devices
    mesh = make_mesh({"expert": 4}, devices=devices[:4])

    def value_and_gradient(params, rest, x, segments):
        def loss(params, x):
            return nnx.merge(graph, params, rest)(x, segments_BT=segments)[0].sum()

        return jax.value_and_grad(loss, argnums=(0, 1))(params, x)

    arguments = params, rest, jnp.zeros((8, 16, config.model_dim)), jnp.ones((8, 16), jnp.int32)
    place = functools.partial(jax.ShapeDtypeStruct, sharding=NamedSharding(mesh, PartitionSpec()))
    with jax.set_mesh(mesh):
        arguments = jax.tree.map(lambda a: place(a.shape, a.dtype), arguments)
        compiled = jax.jit(value_and_gradient).lower(*arguments).compile()
    collective = {"ring": "reduce-scatter", "all_to_all": "all-to-all", "ragged_all_to_all": "ragged-all-to-all"}[way]
    assert collective in compiled.as_text()
    assert {"route", "expert_ffn"} <= {
        name for name in ("route", "expert_ffn") for k in kernels(compiled) if name in k.name
    }
