import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from r1jax.models.moe import MoE, balance_sum
from r1jax.models.presets import make_preset
from tests.kernels.tpu_aot import check_kernels, compile_for, tpu_compile

E, K = 6, 2
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [4, 4, 4, 4, 4, 4]])


def balance_numpy(affinity, segments):
    """V3 Eqs. 17-20 without α, one sequence after the other."""
    total = 0.0
    for row, segment in {(b, s) for b in range(len(segments)) for s in segments[b] if s}:
        tokens = affinity[row][segments[row] == segment]
        counts = np.zeros(E)
        for s in tokens:
            counts[np.argsort(-s)[:K]] += 1
        f = E / (K * len(tokens)) * counts
        p = np.mean([s / s.sum() for s in tokens], axis=0)
        total += (f * p).sum()
    return total


def test_balance_sum_equals_the_equations():
    affinity = np.random.default_rng(0).uniform(0.05, 0.95, (2, 6, E)).astype(np.float32)
    f = jax.jit(jax.value_and_grad(lambda a: balance_sum(a, SEGMENTS, num_experts_per_token=K)))
    value, gradient = f(affinity)
    np.testing.assert_allclose(value, balance_numpy(affinity, SEGMENTS), rtol=1e-6)
    np.testing.assert_array_equal(gradient[0, 5], 0.0)  # padding
    # Counts have no gradient and do not change in so small a step: a finite difference sees P alone.
    step = np.random.default_rng(1).normal(size=affinity.shape) * 1e-4
    rise = balance_numpy(affinity + step, SEGMENTS) - balance_numpy(affinity - step, SEGMENTS)
    np.testing.assert_allclose((gradient * step).sum(), rise / 2, rtol=1e-3)


def test_even_routing_gives_one_a_sequence():
    """Spec A.5.3: token t takes experts 2t and 2t + 1 of 6, three tokens a sequence."""
    affinity = np.full((1, 6, E), 0.5, np.float32)
    for t in range(6):
        affinity[0, t, [2 * t % E, 2 * t % E + 1]] = 0.7
    segments = jnp.array([[1, 1, 1, 2, 2, 2]])
    np.testing.assert_allclose(balance_sum(affinity, segments, num_experts_per_token=K), 2.0, rtol=1e-6)
    collapsed = np.broadcast_to(affinity[:, :1], affinity.shape)
    assert balance_sum(collapsed, segments, num_experts_per_token=K) > 2.1


@pytest.mark.parametrize("preset", ["mini_v3", "mini_v2"])
def test_replayed_experts_are_weighed_by_the_layers_affinities(preset):
    """Its own choice gives what it gives without; another one its own weights, gradients and counts."""
    config = make_preset(preset, vocab_size=64)
    layer = MoE(config, rngs=nnx.Rngs(params=jax.random.key(0)))
    x_BTD = 3 * jax.random.normal(jax.random.key(1), (2, 5, config.model_dim))
    segments_BT = jnp.ones((2, 5), jnp.int32).at[1, 3:].set(0)
    graph, state = nnx.split(layer)

    @jax.jit
    def value_and_gradient(state, replayed_BTK):
        def loss(state):
            out, routing = nnx.merge(graph, state)(
                x_BTD, segments_BT=segments_BT, record=True, replayed_BTK=replayed_BTK
            )
            return (out**2).sum(), (out, routing)

        return jax.value_and_grad(loss, has_aux=True)(state)

    (_, (out, routing)), gradient = value_and_gradient(state, None)
    own_BTK = routing["experts_BTK"]
    (_, (same, _)), same_gradient = value_and_gradient(state, own_BTK.astype(jnp.uint8))
    np.testing.assert_array_equal(out, same)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), gradient, same_gradient)

    other_BTK = (own_BTK + 1) % config.num_experts
    (_, (other, routing)), gradient = value_and_gradient(state, other_BTK)
    np.testing.assert_array_equal(routing["experts_BTK"], own_BTK)  # what is recorded is its own choice
    counts = np.bincount(np.asarray(other_BTK)[np.asarray(segments_BT) > 0].ravel(), minlength=config.num_experts)
    np.testing.assert_array_equal(routing["expert_counts_E"], counts)
    token, chosen = x_BTD[0, 2], other_BTK[0, 2]
    scores = token @ layer.w_router_DE[...]
    affinity = jax.nn.sigmoid(scores) if config.score_function == "sigmoid" else jax.nn.softmax(scores)
    weights = config.routed_scaling * affinity[chosen]
    weights = weights / affinity[chosen].sum() if config.normalize_weights else weights
    gate, up, down = (w[...][chosen] for w in (layer.w_gate_EDF, layer.w_up_EDF, layer.w_down_EFD))
    inner = jax.nn.silu(jnp.einsum("d,kdf->kf", token, gate)) * jnp.einsum("d,kdf->kf", token, up)
    want = jnp.einsum("k,kf,kfd->d", weights, inner, down) + layer.shared(token[None, None])[0, 0]
    np.testing.assert_allclose(other[0, 2], want, rtol=1e-4, atol=1e-5)
    assert np.abs(gradient["w_router_DE"][...]).max() > 0


@tpu_compile
@pytest.mark.parametrize("preset", ["mini_v3", "mini_v2"])
def test_layer_compiles_for_one_tpu_with_all_its_kernels(generation, preset):
    """Nobody names an implementation: on a TPU the router, its order and the experts, forward and backward, are kernels."""
    graph, state = nnx.split(nnx.eval_shape(lambda: MoE(make_preset(preset), rngs=nnx.Rngs(0))))
    params, rest = nnx.split_state(state, nnx.Param, ...)

    def value_and_gradient(params, rest, x_BTD, segments_BT):
        def loss(params, x_BTD):
            return nnx.merge(graph, params, rest)(x_BTD, segments_BT=segments_BT)[0].sum()

        return jax.value_and_grad(loss, (0, 1))(params, x_BTD)

    x_BTD = jax.ShapeDtypeStruct((2, 160, 128), jnp.float32)
    segments_BT = jax.ShapeDtypeStruct((2, 160), jnp.int32)
    compiled = compile_for(
        generation, value_and_gradient, nnx.to_pure_dict(params), nnx.to_pure_dict(rest), x_BTD, segments_BT
    )
    check_kernels(generation, compiled, ["route", "gate_up", "down", "d_hidden", "d_x", "d_gate_up", "d_down"])
