import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels import hardware
from r1jax.kernels.named_shapes import SHAPES
from r1jax.kernels.token_logprob import token_logprob
from r1jax.kernels.token_logprob.shapes import LogprobShape
from tests.kernels.interpreter import STRICT, races_found
from tests.kernels.jaxprs import array_sizes, kernel_costs
from tests.kernels.oracle import gradients_float64
from tests.kernels.test_token_logprob import logprob_numpy
from tests.kernels.tpu_aot import check_kernels, compile_for, tpu_compile

pytestmark = pytest.mark.usefixtures("quick_compilation")
DIM = 8
SMALL_BLOCKS = (128, 128)


def make_inputs(rows, vocab, dtype=np.float32):
    rng = np.random.default_rng(rows + vocab)
    x, w = rng.normal(size=(rows, DIM)).astype(dtype), rng.normal(size=(vocab, DIM)).astype(dtype)
    return x, w, rng.integers(0, vocab, rows)


@pytest.fixture
def small_blocks(monkeypatch):
    for name in ("forward_blocks", "backward_blocks"):
        monkeypatch.setattr(LogprobShape, name, lambda *_: SMALL_BLOCKS)


def run(x, w, targets, interpret=True, temperature=0.7, **name):
    """(log-probs, entropies), (dx, dw) of a mix of both, the temperature an array."""
    name = name or {"implementation": "pallas_tpu", "interpret": interpret}

    @jax.jit
    def value_and_grad(x, w, temperature):
        def loss(x, w):
            logp, entropy = token_logprob(x, w, targets, temperature=temperature, **name)
            ramp = jnp.arange(len(targets)) / len(targets)
            return jnp.sum(jnp.sin(3 * ramp) * logp) + jnp.sum(0.1 * jnp.cos(ramp) * entropy), (logp, entropy)

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(x, w)

    (_, values), gradients = value_and_grad(x, w, jnp.float32(temperature))
    return values, gradients


def check(x, w, targets, interpret=True):
    values, gradients = run(x, w, targets, interpret)
    for got, want in zip(values, logprob_numpy(x, w, targets, 0.7), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    _, wanted = run(x, w, targets, implementation="reference")
    for got, want in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("rows", "vocab"), [(1, 7), (13, 37)])
def test_values_are_numpys_and_gradients_the_references(rows, vocab):
    check(*make_inputs(rows, vocab))


@pytest.mark.parametrize(("rows", "vocab"), [(300, 256), (130, 300)])
def test_in_blocks_of_rows_and_tokens_the_last_ones_cut(rows, vocab, small_blocks):
    check(*make_inputs(rows, vocab))


def test_memory_is_written_before_it_is_read_and_without_races(small_blocks):
    check(*make_inputs(130, 140), STRICT)
    assert not races_found()


def test_minus_infinity_minus_zero_and_large_logits(small_blocks):
    """A whole block of −inf first; −0; and logits of a thousand, whose differences count."""
    w = np.zeros((300, DIM), np.float32)
    w[:128, 0], w[128, 1], w[129, 1] = -np.inf, 1000.0, 999.0
    x = np.zeros((3, DIM), np.float32)
    x[:, 0], x[1, 1] = 1.0, 1.0
    x[2] = [1.0] + [-0.0] * (DIM - 1)
    logits = jax.jit(functools.partial(token_logprob, implementation="pallas_tpu", interpret=True))
    logp, entropy = logits(x, w, np.array([128, 129, 5]))
    two = np.log1p(np.exp(-1.0))
    np.testing.assert_allclose(logp, [-np.log(172), -1 - two, -np.inf], rtol=1e-6)
    np.testing.assert_allclose(entropy, [np.log(172), two + 1 / (1 + np.e), np.log(172)], rtol=1e-6)


def test_bfloat16_values_are_exact_and_gradients_within_one_percent_of_float64():
    """Products are summed in float32; the gradient of the logits is rounded to 8 bits before it is multiplied."""
    x, w, targets = make_inputs(40, 300, jnp.bfloat16)
    values, gradients = run(x, w.astype(np.float32), targets)
    for got, want in zip(values, logprob_numpy(x, w, targets, 0.7), strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)

    def loss(x, w):  # that of ``run``
        logp_XV = jax.nn.log_softmax(x @ w.T / 0.7)
        ramp = np.arange(40) / 40
        entropy = -(jnp.exp(logp_XV) * logp_XV).sum(-1)
        return jnp.sum(np.sin(3 * ramp) * logp_XV[np.arange(40), targets]) + jnp.sum(0.1 * np.cos(ramp) * entropy)

    wanted = gradients_float64(loss, x, w)
    assert gradients[0].dtype == jnp.bfloat16 and gradients[1].dtype == jnp.float32
    for got, want in zip(gradients, wanted, strict=True):
        assert np.abs(np.asarray(got, np.float32) - want).max() < 0.01 * np.abs(want).max()
    assert (np.asarray(gradients[1]) != np.asarray(gradients[1].astype(jnp.bfloat16), np.float32)).any()


def loss(x, w, targets):
    logp, entropy = token_logprob(x, w, targets, implementation="pallas_tpu", interpret=True)
    return (logp + entropy).sum()


def test_no_array_has_rows_times_tokens_numbers():
    x, w, targets = (
        jax.ShapeDtypeStruct(*a) for a in (((2048, 8), "float32"), ((5120, 8), "float32"), ((2048,), "int32"))
    )
    assert max(array_sizes(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, w, targets).jaxpr)) < 2048 * 5120 / 8


@pytest.mark.parametrize(
    ("x", "w", "message"),
    [
        (((4, 8), np.float16), ((9, 8), np.float32), "rows are float16.*the kernel takes float32 and bfloat16"),
        (((4, 8), np.float32), ((9, 7), np.float32), r"the kernel takes \[X, D\], \[V, D\], \[X\]"),
        (
            ((4, 4_000_000), np.float32),
            ((9, 4_000_000), np.float32),
            "4000000 numbers do not fit the VMEM of a TPU v5e",
        ),
    ],
)
def test_what_the_kernel_does_not_take_raises(x, w, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(loss, *(jax.ShapeDtypeStruct(*a) for a in (x, w, ((4,), "int32"))))


def test_named_kernel_raises_where_it_cannot_run():
    with pytest.raises(ValueError, match="token_logprob: implementation 'pallas_tpu' needs a TPU"):
        token_logprob(*make_inputs(3, 7), implementation="pallas_tpu")
    with pytest.raises(ValueError, match="only 'pallas_tpu' can be interpreted, not 'xla'"):
        token_logprob(*make_inputs(3, 7), interpret=True)


def arrays_of(s):
    dtype = jnp.float32 if s.itemsize == 4 else jnp.bfloat16
    sizes = [((s.rows, s.dim), dtype), ((s.vocab, s.dim), dtype), ((s.rows,), jnp.int32)]
    return [jax.ShapeDtypeStruct(*size) for size in sizes]


def test_kernels_state_the_costs_of_the_table():
    s = SHAPES["token_logprob"]["v3"]
    stated = kernel_costs(jax.grad(loss, (0, 1)), *arrays_of(s))
    one_call = s.backward_call_cost(hardware.DEFAULT)
    assert stated == {
        "token_logprob": s.passes(hardware.DEFAULT)["forward"],
        "token_logprob_gradient": one_call,
    }
    matmul = 2 * 8192 * 129_280 * 7168
    assert stated["token_logprob"].flops == matmul
    assert s.passes(hardware.DEFAULT)["backward"].flops == 3 * matmul
    rows, _ = s.backward_blocks(hardware.DEFAULT)
    assert one_call.flops * (8192 // rows) == 3 * matmul


@pytest.mark.parametrize("generation", hardware.GENERATIONS)
def test_blocks_divide_the_vocabulary_and_keep_the_matrix_unit_busy(generation):
    s = SHAPES["token_logprob"]["v3"]
    assert 129_280 % s.forward_blocks(generation)[1] == 0
    for cost in s.passes(generation).values():
        assert cost.flops / cost.bytes_accessed > 0.95 * hardware.flops_per_byte(generation)
    assert LogprobShape(1, 7, 8).forward_blocks(generation) == (1, 7)


def value_and_gradient(x_XD, w_VD, targets_X):
    kernel = functools.partial(token_logprob, implementation="pallas_tpu", temperature=0.6)
    values, pull = jax.vjp(lambda x, w: kernel(x, w, targets_X), x_XD, w_VD)
    return values, pull(values)


@tpu_compile
@pytest.mark.parametrize("name", SHAPES["token_logprob"])
def test_compiles(generation, name):
    s = SHAPES["token_logprob"][name]
    compiled = compile_for(generation, value_and_gradient, *arrays_of(s))
    found = check_kernels(generation, compiled, ["token_logprob", "token_logprob_gradient"])
    want = {s.passes(generation)["forward"].flops, s.backward_call_cost(generation).flops}
    assert {kernel.flops for kernel in found} == want
    # The weights' gradient in float32, once: the scan adds to it in place.
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * s.vocab * s.dim + 16 * s.rows * s.dim + 2**20
