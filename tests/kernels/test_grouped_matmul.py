import importlib.util
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels import hardware
from r1jax.kernels.grouped_matmul import expert_ffn
from r1jax.kernels.grouped_matmul.xla import _layout, _rows_per_block
from r1jax.kernels.route import permutation

CASES = {
    # name: (experts, experts a token, tokens, the experts that tokens choose from)
    "spread": (8, 2, 40, range(8)),
    "empty experts": (8, 2, 40, [1, 4, 6]),
    "all to one pair": (8, 2, 40, [5, 7]),
    "one row": (3, 1, 1, range(3)),
    "more rows than a block": (2, 1, 301, range(2)),
}


PLAIN = ("reference", "xla", "ragged_dot")


def make_inputs(num_experts, num_chosen, num_tokens, choice, dim=6, ffn=10):
    rng = np.random.default_rng(num_tokens)
    experts = np.stack([rng.permutation(list(choice))[:num_chosen] for _ in range(num_tokens)])
    shapes = [(num_tokens, dim), (num_tokens, num_chosen), (num_experts, dim, ffn), (num_experts, dim, ffn)]
    x, weights, gate, up = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    down = rng.normal(size=(num_experts, ffn, dim)).astype(np.float32)
    return experts.astype(np.int32), (x, weights, gate, up, down)


def loss(arrays, experts_TK, implementation):
    x, weights, gate, up, down = arrays
    out_TD = expert_ffn(x, experts_TK, weights, gate, up, down, implementation=implementation)
    return jnp.sum(jnp.sin(out_TD.astype(jnp.float32) * 0.3)), out_TD


value_and_grad = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=2)


def ffn_numpy(experts_TK, arrays):
    x, weights, gate, up, down = (np.array(a, np.float64) for a in arrays)
    out = np.zeros_like(x)
    for t, chosen in enumerate(np.array(experts_TK)):
        for weight, e in zip(weights[t], chosen, strict=True):
            a = x[t] @ gate[e]
            out[t] += weight * ((a / (1 + np.exp(-a)) * (x[t] @ up[e])) @ down[e])
    return out


@pytest.mark.parametrize("case", CASES)
def test_all_implementations_equal_numpy_and_have_one_gradient(case):
    experts, arrays = make_inputs(*CASES[case])
    want = ffn_numpy(experts, arrays)
    results = {name: value_and_grad(arrays, experts, name) for name in PLAIN}
    for (_, out), gradients in results.values():
        np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-4)
        for got, expected in zip(gradients, results["reference"][1], strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["xla", "ragged_dot"])
def test_a_given_order_is_taken_and_not_sorted_for_again(name):
    experts, (x, *others) = make_inputs(*CASES["spread"])
    want = ffn_numpy(experts, (x, *others))

    def of_order(experts, order):
        return expert_ffn(x, experts, *others, order=order, implementation=name)

    order = permutation(experts, 8)
    np.testing.assert_allclose(jax.jit(of_order)(np.zeros_like(experts), order), want, rtol=1e-4, atol=1e-4)
    assert " sort[" not in str(jax.make_jaxpr(of_order)(experts, order))


def test_the_gradient_of_an_expert_without_rows_is_zero():
    experts, arrays = make_inputs(*CASES["all to one pair"])
    _, grads = value_and_grad(arrays, experts, "xla")
    for grad_E in grads[2:]:
        np.testing.assert_array_equal(np.abs(grad_E).max((1, 2)) > 0, np.isin(np.arange(8), [5, 7]))


@pytest.mark.parametrize("name", PLAIN)
def test_bfloat16_is_near_float32(name):
    experts, (x, *others) = make_inputs(*CASES["spread"])
    want = ffn_numpy(experts, (x, *others))
    out = jax.jit(expert_ffn, static_argnames="implementation")(
        x.astype(jnp.bfloat16), experts, *others, implementation=name
    )
    assert out.dtype == jnp.bfloat16
    assert np.abs(np.array(out, np.float32) - want).max() < 0.03 * np.abs(want).max()


def test_block_sizes_are_bounded_powers_of_two():
    sizes = [_rows_per_block(16 * mean, 16) for mean in (0, 1, 9, 32, 160, 256, 5000)]
    assert sizes == [8, 8, 8, 16, 64, 128, 128]


def test_layout_gives_each_expert_whole_blocks_and_each_row_one_slot():
    experts_X = np.array([2, 0, 2, 2, 0, 2, 2], np.int32)  # two rows of expert 0, none of 1, five of 2
    slot_X1, row_of_slot, blocks_E = _layout(permutation(experts_X[:, None], 3), 4)
    np.testing.assert_array_equal(blocks_E, [1, 0, 2])
    np.testing.assert_array_equal(row_of_slot[:12], [1, 4, 7, 7, 0, 2, 3, 5, 6, 7, 7, 7])  # 7: padding
    np.testing.assert_array_equal(np.asarray(row_of_slot)[slot_X1], np.arange(7)[:, None])


def test_default_is_xla_on_a_cpu_and_ragged_dot_where_nothing_else_fits(monkeypatch):
    experts, (x, *others) = make_inputs(*CASES["one row"])

    def is_ragged_dot():
        text = str(jax.make_jaxpr(lambda *arrays: expert_ffn(*arrays))(x, experts, *others))
        return {(True, False): True, (False, True): False}["ragged_dot" in text, "while" in text]

    assert not is_ragged_dot()
    device = jax.sharding.AbstractDevice("TPU v6 lite", 1, "tpu")
    auto = (jax.sharding.AxisType.Auto,)
    with jax.sharding.use_abstract_mesh(
        jax.sharding.AbstractMesh((4,), ("device",), axis_types=auto, abstract_device=device)
    ):
        assert is_ragged_dot()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert is_ragged_dot()


def test_an_unknown_name_raises():
    experts, (x, *others) = make_inputs(*CASES["one row"])
    with pytest.raises(
        ValueError, match="no implementation 'fast'.*'pallas_tpu', 'ragged_dot', 'reference', 'tokamax', 'xla'"
    ):
        expert_ffn(x, experts, *others, implementation="fast")


def test_tokamax_gets_the_sorted_rows_of_each_product(monkeypatch):
    """Its kernels need a GPU: here a stand-in for its ragged_dot, the arguments of which are checked."""
    experts, arrays = make_inputs(*CASES["empty experts"])
    asked = []

    def ragged_dot(rows, w, group_sizes, *, preferred_element_type, implementation):
        asked.append((rows.shape, w.shape, implementation))
        return jax.lax.ragged_dot(rows, w, group_sizes, preferred_element_type=preferred_element_type)

    monkeypatch.setitem(sys.modules, "tokamax", types.SimpleNamespace(ragged_dot=ragged_dot))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(hardware, "is_nvidia_gpu", lambda: True)
    (_, out), _ = value_and_grad(arrays, experts, "tokamax")
    np.testing.assert_allclose(out, ffn_numpy(experts, arrays), rtol=1e-4, atol=1e-4)
    gate, down = ((80, 6), (8, 6, 10), ("mosaic", "triton")), ((80, 10), (8, 10, 6), ("mosaic", "triton"))
    assert asked == [gate, gate, down]


def test_tokamax_needs_a_gpu_and_the_package(monkeypatch):
    experts, (x, *others) = make_inputs(*CASES["one row"])
    with pytest.raises(ValueError, match="expert_ffn: implementation 'tokamax' needs an NVIDIA GPU.*'cpu'"):
        expert_ffn(x, experts, *others, implementation="tokamax")
    monkeypatch.setattr(hardware, "is_nvidia_gpu", lambda: True)
    monkeypatch.setitem(sys.modules, "tokamax", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="'tokamax' needs the package tokamax: pip install tokamax"):
        expert_ffn(x, experts, *others, implementation="tokamax")
