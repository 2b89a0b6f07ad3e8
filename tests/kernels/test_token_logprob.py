import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels.token_logprob import token_logprob, xla
from tests.kernels.jaxprs import array_sizes

ROWS, DIM, VOCAB = 13, 8, 37


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(ROWS, DIM)), rng.normal(size=(VOCAB, DIM))
    return x.astype(np.float32), w.astype(np.float32), rng.integers(0, VOCAB, ROWS)


def logprob_numpy(x, w, targets, temperature):
    logits = np.array(x, np.float64) @ np.array(w, np.float64).T / temperature
    logp = logits - logits.max(1, keepdims=True)
    logp -= np.log(np.exp(logp).sum(1, keepdims=True))
    return logp[np.arange(len(targets)), np.array(targets)], -(np.exp(logp) * logp).sum(1)


@pytest.fixture(params=["reference", "one block", "blocks of 13 and one padded", "a token a block"])
def logprob(request, monkeypatch):
    """``token_logprob`` under each implementation and number of blocks."""
    if request.param == "reference":
        return functools.partial(token_logprob, implementation="reference")
    monkeypatch.setattr(xla, "MIN_BLOCK", 1)
    max_logits = {"one block": ROWS * VOCAB, "a token a block": 1}.get(request.param, ROWS * VOCAB // 3 + 1)
    monkeypatch.setattr(xla, "MAX_LOGITS", max_logits)
    return functools.partial(token_logprob, implementation="xla")


def test_equals_numpy_in_blocks_of_any_size(inputs, logprob):
    function = jax.jit(lambda temperature: logprob(*inputs, temperature=temperature))
    for temperature in (1.0, 0.6):
        logp, entropy = function(jnp.float32(temperature))
        want_logp, want_entropy = logprob_numpy(*inputs, temperature)
        np.testing.assert_allclose(logp, want_logp, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(entropy, want_entropy, rtol=1e-5, atol=2e-5)
        assert logp.dtype == entropy.dtype == jnp.float32
    assert function._cache_size() == 1  # the temperature is an array: another one compiles nothing


def test_gradient_is_that_of_the_plain_formula_in_blocks_too(inputs, logprob):
    x, w, targets = inputs
    weights = np.arange(ROWS) / ROWS

    def blocked(x, w):
        logp, entropy = logprob(x, w, targets, temperature=0.8)
        return jnp.sum(weights * logp) + 0.1 * jnp.sum(entropy)

    def plain(x, w):
        logp = jax.nn.log_softmax(x @ w.T / 0.8)
        chosen = logp[jnp.arange(ROWS), targets]
        return jnp.sum(weights * chosen) - 0.1 * jnp.sum(jnp.exp(logp) * logp)

    got, want = (jax.jit(jax.grad(function, (0, 1)))(x, w) for function in (blocked, plain))
    for array, expected in zip(got, want, strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-5)


def test_entropy_of_known_distributions():
    logits = np.array([[0.0] * 4, [50.0, 0.0, 0.0, 0.0]], np.float32)
    logp, entropy = jax.jit(token_logprob)(logits, np.eye(4, dtype=np.float32), np.array([2, 0]), temperature=1.0)
    np.testing.assert_allclose(entropy, [np.log(4), 0.0], atol=1e-6)
    np.testing.assert_allclose(logp, [-np.log(4), 0.0], atol=1e-6)


def test_neither_value_nor_gradient_forms_all_logits(inputs, monkeypatch):
    x, w, targets = inputs

    def loss(x, w):
        return token_logprob(x, w, targets, temperature=1.0)[0].sum()

    def largest():
        return max(array_sizes(jax.make_jaxpr(jax.value_and_grad(loss, (0, 1)))(x, w).jaxpr))

    assert largest() >= ROWS * VOCAB  # the check sees them where they are allowed
    monkeypatch.setattr(xla, "MIN_BLOCK", 1)
    monkeypatch.setattr(xla, "MAX_LOGITS", 4 * ROWS)
    assert largest() < ROWS * VOCAB


def test_bfloat16_gradient_of_the_unembedding_is_summed_in_float32(inputs):
    x, w, targets = inputs

    def loss(x, w):
        return token_logprob(x.astype(jnp.bfloat16), w, targets, temperature=1.0)[0].sum()

    dw = jax.jit(jax.grad(loss, 1))(x, w)
    assert dw.dtype == jnp.float32 and (np.asarray(dw) != np.asarray(dw.astype(jnp.bfloat16), np.float32)).any()


def test_unknown_implementation_is_named(inputs):
    with pytest.raises(ValueError, match=r"no implementation 'fast'.*xla"):
        token_logprob(*inputs, implementation="fast")
