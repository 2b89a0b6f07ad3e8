import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu.megablox import gmm as megablox
from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm as megablox_gmm

from r1jax.kernels import hardware
from r1jax.kernels.grouped_matmul import expert_ffn, pallas_tpu, shapes
from r1jax.kernels.grouped_matmul.pallas_tpu import sorted_expert_ffn
from r1jax.kernels.grouped_matmul.shapes import ExpertShape
from r1jax.kernels.named_shapes import SHAPES
from r1jax.kernels.route import permutation
from tests.kernels.interpreter import STRICT, races_found
from tests.kernels.jaxprs import kernel_costs
from tests.kernels.oracle import gradients_float64
from tests.kernels.test_grouped_matmul import ffn_numpy, make_inputs, value_and_grad
from tests.kernels.tpu_aot import check_kernels, compile_for, tpu_compile

pytestmark = pytest.mark.usefixtures("quick_compilation")

CASES = {
    # name: (experts, experts a token, tokens, the experts that tokens choose from)
    "one row": (3, 1, 1, range(3)),
    "blocks that four experts share": (8, 2, 150, range(8)),
    "empty experts, first and last too": (8, 2, 90, [1, 4, 6]),
    "all to one expert, last block cut": (4, 1, 301, [2]),
}


def interpreted(arrays, experts, interpret=True, **options):
    """(loss, out), gradients: as ``value_and_grad`` of the other implementations."""

    def loss(arrays):
        out_TD = expert_ffn(
            arrays[0], experts, *arrays[1:], implementation="pallas_tpu", interpret=interpret, **options
        )
        return jnp.sum(jnp.sin(out_TD.astype(jnp.float32) * 0.3)), out_TD

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(arrays)


def scaled(arrays):
    """Weights such that every product has numbers of about one."""
    return tuple(a * np.float32(a.shape[1] ** -0.5) if a.ndim == 3 else a for a in arrays)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_the_references(case):
    experts, arrays = make_inputs(*CASES[case])
    arrays = scaled(arrays)
    (_, out), gradients = interpreted(arrays, experts)
    np.testing.assert_allclose(out, ffn_numpy(experts, arrays), rtol=2e-5, atol=2e-5)
    _, want = value_and_grad(arrays, experts, "reference")
    for got, expected in zip(gradients, want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_columns_in_several_blocks(monkeypatch):
    monkeypatch.setattr(shapes, "MOST_WEIGHTS", 1)  # falls to the smallest blocks
    monkeypatch.setattr(shapes, "MOST_SUMS", 128 * 256)
    monkeypatch.setattr(shapes.RowsCall, "blocks", lambda call, _: (128, 128))
    experts, arrays = make_inputs(3, 1, 140, range(3), dim=256, ffn=384)
    arrays = scaled(arrays)
    (_, out), gradients = interpreted(arrays, experts)
    np.testing.assert_allclose(out, ffn_numpy(experts, arrays), rtol=2e-5, atol=2e-5)
    for got, expected in zip(gradients, value_and_grad(arrays, experts, "reference")[1], strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_memory_is_written_before_it_is_read_and_without_races():
    experts, arrays = make_inputs(4, 1, 150, [0, 2])  # two blocks, the second cut; the first has rows of both
    arrays = scaled(arrays)
    (_, out), gradients = interpreted(arrays, experts, STRICT)
    assert not races_found()
    np.testing.assert_allclose(out, ffn_numpy(experts, arrays), rtol=2e-5, atol=2e-5)
    for got, expected in zip(gradients, value_and_grad(arrays, experts, "reference")[1], strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_bfloat16_is_within_one_percent_of_float64():
    """Of the largest number: hidden rows, results and weights of the sum are rounded to 8 bits, products are not."""
    experts, arrays = make_inputs(4, 2, 60, range(4), dim=32, ffn=48)
    rounded = tuple(jnp.asarray(a, jnp.bfloat16) for a in scaled(arrays))
    (_, out), gradients = interpreted(rounded, experts)
    exact = tuple(np.asarray(a, np.float64) for a in rounded)
    pick_TKE = np.eye(4)[experts]

    def loss(x, weights, gate, up, down):
        hidden_TEF = jax.nn.silu(jnp.einsum("td,edf->tef", x, gate)) * jnp.einsum("td,edf->tef", x, up)
        mix_TE = jnp.einsum("tk,tke->te", weights, pick_TKE)
        return jnp.sin(jnp.einsum("tef,efd,te->td", hidden_TEF, down, mix_TE) * 0.3).sum()

    want, want_gradients = ffn_numpy(experts, exact), gradients_float64(loss, *exact)
    assert out.dtype == jnp.bfloat16
    for got, expected in zip((out, *gradients), (want, *want_gradients), strict=True):
        assert got.dtype == jnp.bfloat16
        assert np.abs(np.asarray(got, np.float64) - expected).max() < 0.01 * np.abs(expected).max()


def test_rows_sorted_by_the_router_give_the_same():
    experts, arrays = make_inputs(*CASES["empty experts, first and last too"])
    x, weights, *matrices = scaled(arrays)

    @jax.jit
    def run(order):
        kernel = {"implementation": "pallas_tpu", "interpret": True}
        return expert_ffn(x, np.zeros_like(experts), weights, *matrices, order=order, **kernel)

    got = run(permutation(experts, 8))
    np.testing.assert_allclose(got, ffn_numpy(experts, (x, weights, *matrices)), rtol=2e-5, atol=2e-5)


def test_rows_of_nobody_change_nothing():
    """A device of an expert-parallel mesh has room for more rows than reached it."""
    rng = np.random.default_rng(0)
    gate, up, down = (rng.normal(size=s).astype(np.float32) for s in ((2, 8, 16), (2, 8, 16), (2, 16, 8)))
    x = rng.normal(size=(150, 8)).astype(np.float32)
    x[140:] = np.nan

    def loss(weights):
        y = sorted_expert_ffn(x, jnp.array([0, 5, 140]), weights, interpret=True)[:140]
        return jnp.sum(jnp.sin(y)), y

    (_, y), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))((gate, up, down))
    expert = (np.arange(140) >= 5).astype(np.int32)[:, None]
    np.testing.assert_allclose(y, ffn_numpy(expert, (x[:140], np.ones((140, 1)), gate, up, down)), rtol=1e-4, atol=1e-4)
    assert all(np.isfinite(g).all() for g in gradients)


def test_visits_cut_blocks_against_experts():
    shape = ExpertShape(rows=300, experts=4, dim=8, ffn=8)
    offsets = jnp.array([0, 100, 100, 270, 300])  # expert 0 in block 0; 1 nowhere; 2 in all three; 3 in the last
    expert, block, num_visits = pallas_tpu._visits(offsets, shape, for_sums=False)
    assert num_visits == 5
    np.testing.assert_array_equal(expert[:5], [0, 2, 2, 2, 3])
    np.testing.assert_array_equal(block[:5], [0, 0, 1, 2, 2])
    expert, _, num_visits = pallas_tpu._visits(offsets, shape, for_sums=True)
    assert num_visits == 6
    np.testing.assert_array_equal(expert, [0, 1, 2, 2, 2, 3, 4])  # the last one is past the end


@pytest.mark.parametrize(
    ("x", "weights", "message"),
    [
        (((6, 8), np.float16), ((2, 8, 16), np.float32), "rows are float16; the kernel takes float32 and bfloat16"),
        (((6, 4), np.float32), ((2, 8, 16), np.float32), "the kernel takes rows"),
        (
            ((6, 8), np.float32),
            ((2, 8, 16), jnp.float8_e4m3fn),
            "weights are.*float8_e4m3fn.*takes float32 and bfloat16",
        ),
    ],
)
def test_what_the_kernel_does_not_take_raises(x, weights, message):
    (num_experts, dim, ffn), dtype = weights
    x, *matrices = (jax.ShapeDtypeStruct(*a) for a in (x, weights, weights, ((num_experts, ffn, dim), dtype)))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda x, *m: sorted_expert_ffn(x, jnp.arange(3), m, interpret=True), x, *matrices)


def test_named_kernel_raises_where_it_cannot_run():
    experts, (x, *others) = make_inputs(3, 1, 1, range(3))
    with pytest.raises(ValueError, match="expert_ffn: implementation 'pallas_tpu' needs a TPU"):
        expert_ffn(x, experts, *others, implementation="pallas_tpu")
    with pytest.raises(ValueError, match="only 'pallas_tpu' can be interpreted, not 'xla'"):
        expert_ffn(x, experts, *others, interpret=True)


def arrays_of(s):
    """Rows, offsets, weights."""
    dtype = jnp.float32 if s.itemsize == 4 else jnp.bfloat16
    shape = [(s.experts, s.dim, s.ffn)] * 2 + [(s.experts, s.ffn, s.dim)]
    weights = [jax.ShapeDtypeStruct(a, dtype) for a in shape]
    return jax.ShapeDtypeStruct((s.rows, s.dim), dtype), jax.ShapeDtypeStruct((s.experts + 1,), jnp.int32), weights


def value(x_RD, offsets, weights, **options):
    return sorted_expert_ffn(x_RD, offsets, weights, **options)


def value_and_gradient(x_RD, offsets, weights, **options):
    y_RD, pull = jax.vjp(lambda x, w: value(x, offsets, w, **options), x_RD, weights)
    return y_RD, pull(y_RD)


def calls_of(name, *, gradient):
    s = SHAPES["expert_ffn"][name]
    return s.forward_calls(saves=gradient) + (s.backward_calls() if gradient else [])


@pytest.mark.parametrize(("name", "gradient"), [("v3", True), ("v3_decode", False)])
def test_kernels_state_the_costs_of_the_table(name, gradient):
    function = functools.partial(value_and_gradient if gradient else value, interpret=True)
    stated = kernel_costs(function, *arrays_of(SHAPES["expert_ffn"][name]))
    assert stated == {call.name: call.cost(hardware.DEFAULT) for call in calls_of(name, gradient=gradient)}
    area = 32768 * 7168 * 2048 if name != "v3_decode" else 1024 * 7168 * 2048
    products = {"v3": 3 + 6, "v3_decode": 3}[name]
    assert sum(cost.flops for cost in stated.values()) == 2 * products * area


def test_weights_are_read_once_and_less_is_read_than_unfused():
    s = SHAPES["expert_ffn"]["v3_decode"]
    rows = 1024 * (7168 * 4 + 2048 + 2048 * 2 + 7168) * 2  # x once a block of 512 columns, hidden, hidden twice, y
    assert s.passes("v5p")["forward"].bytes_accessed == rows + 3 * 8 * 7168 * 2048 * 2
    for name, s in SHAPES["expert_ffn"].items():
        for which, cost in s.passes("v5p").items():
            assert cost.bytes_accessed < s.unfused_bytes("v5p")[which], (name, which)


def test_same_result_as_megablox_and_ragged_dot_with_fewer_bytes_than_megablox():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(256, 128)).astype(np.float32), rng.normal(size=(3, 128, 128)).astype(np.float32)
    sizes, offsets = jnp.array([100, 0, 156], jnp.int32), jnp.array([0, 100, 100, 256], jnp.int32)
    call = ExpertShape(256, 3, 128, 128, itemsize=4).forward_calls()[1]

    def ours(x, w):
        visits = pallas_tpu._visits(offsets, call.shape, for_sums=False)
        return pallas_tpu._rows(call, [x], [w], lambda y: (y,), visits=visits, offsets=offsets, interpret=True)[0]

    got = jax.jit(ours)(x, w)
    for want in (megablox_gmm(x, w, sizes, interpret=True), jax.lax.ragged_dot(x, w, sizes)):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-4)  # sums of 128 products
    s = SHAPES["expert_ffn"]["v3"]
    x, w = jax.ShapeDtypeStruct((s.rows, s.dim), jnp.bfloat16), jax.ShapeDtypeStruct((8, s.dim, s.ffn), jnp.bfloat16)
    theirs = functools.partial(megablox_gmm, tiling=(512, 1024, 1024), preferred_element_type=jnp.bfloat16)
    ((_, cost),) = kernel_costs(
        functools.partial(theirs, interpret=True), x, w, jax.ShapeDtypeStruct((8,), jnp.int32)
    ).items()
    ours = s.forward_calls()[0].cost("v5p").bytes_accessed
    assert (ours // 10**7, cost.bytes_accessed // 10**7) == (248, 315)  # gate and up; gate alone


@tpu_compile
@pytest.mark.parametrize("name", SHAPES["expert_ffn"])
def test_compiles(generation, name):
    gradient = "decode" not in name
    compiled = compile_for(
        generation, value_and_gradient if gradient else value, *arrays_of(SHAPES["expert_ffn"][name])
    )
    calls = calls_of(name, gradient=gradient)
    found = check_kernels(generation, compiled, [call.name for call in calls])
    costs = hardware.total(*(call.cost(generation) for call in calls))
    assert sum(kernel.bytes_accessed for kernel in found) == costs.bytes_accessed
    assert sum(kernel.flops for kernel in found) == costs.flops


@tpu_compile(generations=["v5p"])
def test_accesses_fewer_bytes_than_megablox(generation):
    """Value and gradient at V3's training shape, by the compiler's count, which takes each kernel's own estimate."""

    def theirs(x_RD, offsets, weights):
        def product(rows, w):
            tiling = 512, min(1024, rows.shape[1]), min(1024, w.shape[2])
            return megablox(rows, w, jnp.diff(offsets), jnp.bfloat16, tiling)

        def ffn(x_RD, weights):
            gate, up, down = weights
            return product(jax.nn.silu(product(x_RD, gate)) * product(x_RD, up), down)

        y_RD, pull = jax.vjp(ffn, x_RD, weights)
        return y_RD, pull(y_RD)

    both = [compile_for(generation, f, *arrays_of(SHAPES["expert_ffn"]["v3"])) for f in (value_and_gradient, theirs)]
    accessed = [compiled.cost_analysis()["bytes accessed"] for compiled in both]
    temporary = [compiled.memory_analysis().temp_size_in_bytes for compiled in both]
    assert accessed[0] < 14e9 and accessed[1] > 2 * accessed[0]  # 13.7 and 28.8 GB
    assert temporary[0] < 0.3e9 and temporary[1] > 2 * temporary[0]  # 0.27 and 0.61 GB
