import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.objectives.supervised import cross_entropy_loss


def test_literal_loss_metrics_and_gradient():
    logp_BT = jnp.log(jnp.array([[0.5, 0.25, 1.0], [0.125, 0.5, 0.5]]))
    weight_BT = jnp.array([[0.25, 0.25, 0.25], [0.25, 0.0, 0.0]])
    (loss, metrics), gradient_BT = jax.value_and_grad(
        lambda logp_BT: cross_entropy_loss(logp_BT, weight_BT=weight_BT), has_aux=True
    )(logp_BT)
    assert loss == pytest.approx(6 * np.log(2) / 4)  # 1 + 2 + 0 + 3 bits
    assert metrics["nll"] == pytest.approx(6 * np.log(2))
    assert metrics["num_tokens"] == 4
    np.testing.assert_array_equal(gradient_BT, -weight_BT)


def test_padding_may_hold_anything():
    logp_BT = jnp.array([[-1.0, jnp.nan, -jnp.inf]])
    weight_BT = jnp.array([[1.0, 0.0, 0.0]])
    (loss, metrics), gradient_BT = jax.value_and_grad(
        lambda logp_BT: cross_entropy_loss(logp_BT, weight_BT=weight_BT), has_aux=True
    )(logp_BT)
    assert loss == 1 and metrics["nll"] == 1
    np.testing.assert_array_equal(gradient_BT, [[-1, 0, 0]])


def test_low_precision_log_probs_are_summed_in_float32():
    logp_BT = jnp.full((1, 1000), -1.0, jnp.bfloat16)
    loss, _ = cross_entropy_loss(logp_BT, weight_BT=jnp.full((1, 1000), 1e-3, jnp.float32))
    assert loss.dtype == jnp.float32
    assert loss == pytest.approx(1.0, rel=1e-5)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="weight_BT has shape"):
        cross_entropy_loss(jnp.zeros((2, 3)), weight_BT=jnp.zeros((2, 1)))
