"""MTP depths on their own: packing, their own weights. Their wiring: test_against_transformers."""

import dataclasses

import jax
import numpy as np
import pytest

from r1jax.models.transformer import make_model
from tests.tiny import V3, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = dataclasses.replace(V3, num_layers=1, num_dense_layers=0, num_mtp_layers=2)
MODEL = make_model(CONFIG)
LENGTH = 12


@pytest.fixture(scope="module")
def trees():
    return shaken(MODEL)


@pytest.fixture(scope="module")
def inputs():
    """(hidden of the main model, next tokens): any will do."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(2, LENGTH, 32)).astype(np.float32), rng.integers(0, 48, (2, LENGTH)).astype(np.int32)


def mtp(trees, hidden, next_tokens, positions, segments, *, depth=0):
    return MODEL.mtp_hidden(*trees, hidden, next_tokens, depth=depth, positions_BT=positions, segments_BT=segments)


@pytest.fixture(scope="module")
def forward():
    return jax.jit(mtp, static_argnames="depth")


def alone(lengths=(LENGTH, LENGTH)):
    segments = np.array([[int(t < n) for t in range(LENGTH)] for n in lengths])
    return np.tile(np.arange(LENGTH), (2, 1)), segments


def test_packed_is_alone(trees, inputs, forward):
    hidden, tokens = inputs
    want, aux = forward(trees, hidden, tokens, *alone((5, 4)))
    packed = [np.concatenate([a[:1, :5], a[1:, :4], a[:1, 5:8]], axis=1) for a in inputs]
    packed = [np.repeat(a, 2, axis=0) for a in packed]
    positions = np.tile([0, 1, 2, 3, 4, 0, 1, 2, 3, 7, 7, 7], (2, 1))
    segments = np.array([[1] * 5 + [2] * 4 + [0] * 3, [0] * 12])
    got, packed_aux = forward(trees, *packed, positions, segments)
    np.testing.assert_allclose(got[0, :5], want[0, :5], atol=1e-5)
    np.testing.assert_allclose(got[0, 5:9], want[1, :4], atol=1e-5)
    np.testing.assert_array_equal(packed_aux["expert_counts_LE"], aux["expert_counts_LE"])
    assert aux["expert_counts_LE"].sum() == 2 * 9


def test_each_depth_has_weights_of_its_own(trees, inputs, forward):
    first, second = (forward(trees, *inputs, *alone(), depth=depth)[0] for depth in (0, 1))
    assert np.abs(first - second).max() > 0.1


def test_the_parameters_agreed_on():
    params, buffers = MODEL.abstract()
    assert set(params["mtp"]) == {"embed_norm", "hidden_norm", "w_proj_AD", "block", "final_norm"}
    assert params["mtp"]["w_proj_AD"].shape == (2, 64, 32)
    names = [jax.tree.structure(tree) for tree in (params["mtp"]["block"], params["moe"])]
    assert names[0] == names[1]
    assert buffers["mtp"]["block"]["ffn"]["router_bias_E"].shape == (2, 8)
    axes, _ = MODEL.logical_axes()
    assert axes["mtp"]["w_proj_AD"] == (None, "embed", None)
    assert axes["mtp"]["block"]["ffn"]["w_up_EDF"] == (None, "experts", "embed", "mlp")
