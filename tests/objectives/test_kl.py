"""Golden values and gradients on a policy over three actions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.objectives.kl import kl_estimate

LN2 = 0.6931472
POLICY = np.array([0.5, 0.25, 0.25])
REFERENCE = np.array([0.25, 0.25, 0.5])
OLD = np.array([0.25, 0.5, 0.25])

# KL(policy || reference) = 0.25 ln 2 = 0.1732868; its gradient by the logits is p (log p/q - KL).
REVERSE_KL = 0.1732868
REVERSE_GRADIENT = [0.2599302, -0.0433217, -0.2166085]
FORWARD_GRADIENT = [0.25, 0.0, -0.25]  # of KL(reference || policy): p - q


def expected_value_and_gradient(kind, *, sampled_from, old_logp=None):
    """The expectation over actions of the estimate, and of its gradient by the policy's logits, exactly."""

    def expectation(logits):
        logp = jax.nn.log_softmax(logits)
        estimate = kl_estimate(logp, jnp.log(REFERENCE), kind=kind, old_logp=old_logp)
        return jnp.sum(jnp.asarray(sampled_from) * estimate)

    return jax.value_and_grad(expectation)(jnp.log(POLICY))


@pytest.mark.parametrize(
    ("kind", "value", "gradient"),
    [
        ("k1", REVERSE_KL, [0.0, 0.0, 0.0]),
        ("k2", 0.75 * LN2**2 / 2, REVERSE_GRADIENT),
        ("k3", REVERSE_KL, FORWARD_GRADIENT),
        ("k3_is", REVERSE_KL, REVERSE_GRADIENT),
    ],
)
def test_on_policy(kind, value, gradient):
    got_value, got_gradient = expected_value_and_gradient(kind, sampled_from=POLICY, old_logp=jnp.log(POLICY))
    assert got_value == pytest.approx(value, abs=1e-6)
    np.testing.assert_allclose(got_gradient, gradient, atol=1e-6)


def test_off_policy_only_the_importance_weight_restores_value_and_gradient():
    value, gradient = expected_value_and_gradient("k3_is", sampled_from=OLD, old_logp=jnp.log(OLD))
    assert value == pytest.approx(REVERSE_KL, abs=1e-6)
    np.testing.assert_allclose(gradient, REVERSE_GRADIENT, atol=1e-6)
    # k3 under OLD: 1/4 (ln 2 - 1/2) + 1/4 (1 - ln 2) = 1/8; its gradient is another still.
    value, gradient = expected_value_and_gradient("k3", sampled_from=OLD)
    assert value == pytest.approx(0.125, abs=1e-6)
    np.testing.assert_allclose(gradient, [0.1875, 0.03125, -0.21875], atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "value", "slope"),
    [("k1", -LN2, 1.0), ("k2", 0.2402265, -LN2), ("k3", 0.3068528, -1.0), ("k3_is", 0.1534264, -0.3465736)],
)
def test_literal_at_a_reference_twice_as_likely(kind, value, slope):
    # d = ln 2, policy / old = 1/2. d/dlogp of k3 is 1 - e^d = -1; of r k3 it is r (k3 + 1 - e^d) = (0.3068528 - 1) / 2.
    def estimate(logp):
        return kl_estimate(logp, jnp.float32(LN2 - 1), kind=kind, old_logp=jnp.float32(LN2 - 1))

    got_value, got_slope = jax.value_and_grad(estimate)(jnp.float32(-1))
    assert got_value == pytest.approx(value, abs=1e-6)
    assert got_slope == pytest.approx(slope, abs=1e-6)


def test_k3_is_never_negative_and_zero_at_equality():
    logp = jnp.linspace(-3, 0, 1001)
    assert kl_estimate(logp, logp[::-1], kind="k3").min() >= 0
    np.testing.assert_array_equal(kl_estimate(logp, logp, kind="k3"), 0)
    # Small differences keep their digits: d^2 / 2 at d = 1e-3, where e^d - d - 1 in float32 would be off by percents.
    assert kl_estimate(jnp.float32(0), jnp.float32(1e-3), kind="k3") == pytest.approx(5.0017e-7, rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "at_plus", "at_minus"),
    [("k1", -20.0, 20.0), ("k2", 200.0, 200.0), ("k3", 485165195.4 - 21, 19.0), ("k3_is", 1.0, 485165195.4 * 19)],
)
def test_clamped_at_20_nats_without_gradient(kind, at_plus, at_minus):
    # The reference is 50 nats above, then below; for k3_is the policy is as far from old, on the other side.
    logp = jnp.array([-50.0, 0.0])
    ref_logp = jnp.array([0.0, -50.0])
    got = kl_estimate(logp, ref_logp, kind=kind, old_logp=ref_logp)
    np.testing.assert_allclose(got, [at_plus, at_minus], rtol=1e-6)
    gradient = jax.grad(lambda logp: kl_estimate(logp, ref_logp, kind=kind, old_logp=ref_logp).sum())(logp)
    np.testing.assert_array_equal(gradient, 0)


def test_reference_and_old_are_constants():
    logp = jnp.array([-1.0, -2.0])
    gradients = jax.grad(
        lambda ref_logp, old_logp: kl_estimate(logp, ref_logp, kind="k3_is", old_logp=old_logp).sum(), argnums=(0, 1)
    )(logp - 1, logp + 1)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


def test_errors():
    logp = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match=r"must be one of .*'k4'"):
        kl_estimate(logp, logp, kind="k4")
    with pytest.raises(ValueError, match="'k3_is' needs old_logp"):
        kl_estimate(logp, logp, kind="k3_is")
    with pytest.raises(ValueError, match="ref_logp has shape"):
        kl_estimate(logp, logp[:1], kind="k3")
