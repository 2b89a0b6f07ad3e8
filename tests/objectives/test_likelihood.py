import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.objectives.likelihood import cross_entropy_loss, pair_loss, point_loss

LOG2, LOG3 = np.log(2.0), np.log(3.0)


def test_pair_loss_literal_value_and_gradient():
    """Margins 0, ln 3 and -ln 3: probabilities 1/2, 3/4 and 1/4 that the order is right."""
    chosen_B, rejected_B = jnp.array([1.0, LOG3, 0.0]), jnp.array([1.0, 0.0, LOG3])
    weight_B = jnp.full(3, 1 / 3)
    loss, (to_chosen_B, to_rejected_B) = jax.value_and_grad(
        lambda rewards: pair_loss(rewards[0], rewards[1], weight_B=weight_B)
    )((chosen_B, rejected_B))
    assert loss == pytest.approx((LOG2 + np.log(4 / 3) + np.log(4)) / 3)
    np.testing.assert_allclose(to_chosen_B, [-1 / 6, -1 / 12, -1 / 4], rtol=1e-5)
    np.testing.assert_allclose(to_rejected_B, -np.asarray(to_chosen_B), rtol=1e-6)


def test_pair_loss_sees_differences_alone():
    chosen_B, rejected_B, weight_B = jnp.array([0.3, -1.0]), jnp.array([-0.2, 0.5]), jnp.array([0.5, 0.5])
    shifted = pair_loss(chosen_B + 7, rejected_B + 7, weight_B=weight_B)
    assert shifted == pytest.approx(float(pair_loss(chosen_B, rejected_B, weight_B=weight_B)), rel=1e-5)


def test_point_loss_literal_value_and_gradient():
    """Logits ln 3 (safe: 3/4) and 0, labels safe, unsafe, unsafe."""
    reward_B, label_B = jnp.array([LOG3, LOG3, 0.0]), jnp.array([1.0, 0.0, 0.0])
    weight_B = jnp.full(3, 1 / 3)
    loss, gradient_B = jax.value_and_grad(lambda r: point_loss(r, label_B, weight_B=weight_B))(reward_B)
    assert loss == pytest.approx((np.log(4 / 3) + np.log(4) + LOG2) / 3)
    np.testing.assert_allclose(gradient_B, np.array([-0.25, 0.75, 0.5]) / 3, rtol=1e-5)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_padding_may_hold_anything(bad):
    weight_B = jnp.array([1.0, 0.0])
    rewards_B, others_B = jnp.array([0.0, bad]), jnp.array([0.0, 1.0])
    for loss_of in (
        lambda r: pair_loss(r, others_B, weight_B=weight_B),
        lambda r: pair_loss(others_B, r, weight_B=weight_B),
        lambda r: point_loss(r, others_B, weight_B=weight_B),
    ):
        loss, gradient_B = jax.value_and_grad(loss_of)(rewards_B)
        assert loss == pytest.approx(LOG2) and gradient_B[1] == 0 and np.isfinite(gradient_B).all()


def test_extreme_logits_and_low_precision_stay_finite():
    far = jnp.array([500.0], jnp.bfloat16)
    assert pair_loss(-far, far, weight_B=jnp.ones(1)) == pytest.approx(1000.0)
    assert point_loss(far, jnp.zeros(1), weight_B=jnp.ones(1)) == pytest.approx(500.0)
    assert point_loss(far, jnp.ones(1), weight_B=jnp.ones(1)).dtype == jnp.float32


def test_the_sum_does_not_depend_on_the_split():
    rng = np.random.default_rng(0)
    chosen_B, rejected_B, weight_B = rng.normal(size=(3, 8)).astype(np.float32)
    whole = pair_loss(chosen_B, rejected_B, weight_B=weight_B)
    parts = [pair_loss(chosen_B[p], rejected_B[p], weight_B=weight_B[p]) for p in (slice(3), slice(3, 8))]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-5)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="rejected_B has shape"):
        pair_loss(jnp.zeros(2), jnp.zeros(3), weight_B=jnp.zeros(2))
    with pytest.raises(ValueError, match="reward_B must have 1 dims"):
        point_loss(jnp.zeros((2, 1)), jnp.zeros((2, 1)), weight_B=jnp.zeros((2, 1)))


def test_cross_entropy_literal_loss_metrics_and_gradient():
    logp_BT = jnp.log(jnp.array([[0.5, 0.25, 1.0], [0.125, 0.5, 0.5]]))
    weight_BT = jnp.array([[0.25, 0.25, 0.25], [0.25, 0.0, 0.0]])
    (loss, metrics), gradient_BT = jax.value_and_grad(
        lambda logp_BT: cross_entropy_loss(logp_BT, weight_BT=weight_BT), has_aux=True
    )(logp_BT)
    assert loss == pytest.approx(6 * np.log(2) / 4)  # 1 + 2 + 0 + 3 bits
    assert metrics["nll"] == pytest.approx(6 * np.log(2))
    assert metrics["num_tokens"] == 4
    np.testing.assert_array_equal(gradient_BT, -weight_BT)


def test_padding_may_hold_anything_in_cross_entropy():
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


def test_shapes_are_checked_in_cross_entropy():
    with pytest.raises(ValueError, match="weight_BT has shape"):
        cross_entropy_loss(jnp.zeros((2, 3)), weight_BT=jnp.zeros((2, 1)))
