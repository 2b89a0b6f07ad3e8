import numpy as np
import pytest

from r1jax.evals.reward_model import (
    calibration_error,
    length_bias,
    pair_calibration,
    pair_metrics,
    point_calibration,
    point_metrics,
)

LOG3 = np.log(3.0)


def test_pair_metrics_have_trls_names_and_a_tie_is_no_success():
    rewards_B2 = np.array([[2.0, 1.0], [0.0, 0.0], [-1.0, 3.0], [5.0, 0.0]])
    expected = {"accuracy": 0.5, "margin": 0.5, "min_reward": -1.0, "mean_reward": 1.25, "max_reward": 5.0}
    assert pair_metrics(rewards_B2) == expected


def test_point_metrics_by_class():
    rewards_B, labels_B = np.array([1.0, -1.0, -2.0, 3.0]), np.array([1.0, 1.0, 0.0, 0.0])
    metrics = point_metrics(rewards_B, labels_B)
    assert metrics["accuracy"] == metrics["accuracy_safe"] == metrics["accuracy_unsafe"] == 0.5
    assert metrics["margin"] == -0.5  # 0 of the safe, 0.5 of the unsafe
    assert "margin" not in point_metrics(rewards_B[:2], labels_B[:2])


def test_calibration_error_literal():
    """Bins [0.2, 0.3): 0.25 against 1/2; [0.9, 1]: 0.95 and 1.0 against 1."""
    found = calibration_error(np.array([0.25, 0.25, 0.95, 1.0]), np.array([0.0, 1.0, 1.0, 1.0]))
    assert found == pytest.approx((2 * 0.25 + 2 * 0.025) / 4)


def test_calibration_of_pairs_and_labels():
    # three of four right at probability 3/4: perfectly calibrated
    margins = np.array([[LOG3, 0.0]] * 3 + [[0.0, LOG3]])
    assert pair_calibration(margins) == pytest.approx(0.0, abs=1e-9)
    assert pair_calibration(np.array([[LOG3, 0.0]] * 4)) == pytest.approx(0.25)
    assert pair_calibration(np.zeros((3, 2))) == 0.0  # it says nothing, and claims nothing
    assert point_calibration(np.array([LOG3] * 4), np.array([1, 1, 1, 0])) == pytest.approx(0.0, abs=1e-9)
    assert point_calibration(np.array([-LOG3] * 2), np.array([1, 1])) == pytest.approx(0.75)


def test_length_bias_of_a_model_that_loves_length():
    lengths_B2 = np.array([[10, 5], [3, 8], [6, 9], [4, 4]])
    bias = length_bias(lengths_B2 * 0.1, lengths_B2)
    assert bias["length/correlation"] == pytest.approx(1.0)
    assert bias["length/prefers_longer"] == 1.0
    assert bias["length/longer_is_chosen"] == pytest.approx(1 / 3)
    assert bias["length/bias"] == pytest.approx(2 / 3)


def test_length_bias_without_pairs_or_variation():
    assert length_bias(np.array([[1.0], [2.0]]), np.array([[2], [1]])) == {"length/correlation": pytest.approx(-1.0)}
    assert length_bias(np.ones((3, 2)), np.ones((3, 2))) == {"length/correlation": 0.0}
