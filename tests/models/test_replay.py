"""Router replay: what one forward chose, another one uses again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models.transformer import make_model
from tests.tiny import V3, padded, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

MODEL = make_model(dataclasses.replace(V3, num_layers=2, num_dense_layers=0))
ARRAYS = padded([[5, 40, 17, 3, 29, 11], [7, 41, 13]])


def run(params, buffers, replay=None, **cache):
    tokens, positions, segments = ARRAYS
    hidden, _, aux = MODEL.hidden(
        params, buffers, tokens, positions_BT=positions, segments_BT=segments,
        replay_LBTK=replay, record_routing=True, **cache,
    )  # fmt: skip
    return jnp.where(segments[..., None] > 0, hidden, 0.0), aux


@pytest.fixture(scope="module")
def forward():
    return jax.jit(run)


@pytest.fixture(scope="module")
def old(forward):
    """(params, buffers, hidden, aux) of the sampler."""
    trees = shaken(MODEL)
    return *trees, *forward(*trees, None)


def test_choices_are_recorded_by_layer_and_token(old):
    *_, aux = old
    experts = np.array(aux["experts_LBTK"])
    assert experts.shape == (2, 2, 6, 2)
    real = ARRAYS[2] > 0
    counts = [np.bincount(experts[layer][real].ravel(), minlength=8) for layer in range(2)]
    np.testing.assert_array_equal(counts, aux["expert_counts_LE"])


def test_another_router_with_old_choices(old, forward):
    """A trainer whose biases would choose other experts: replayed, it is the sampler; left alone, it is not."""
    params, buffers, want, aux = old
    moved = jax.tree.map(lambda bias: -3 * bias + jnp.arange(8.0), buffers)
    hidden, again = forward(params, moved, aux["experts_LBTK"])
    np.testing.assert_allclose(hidden, want, atol=1e-6)
    np.testing.assert_array_equal(again["experts_LBTK"], aux["experts_LBTK"])

    # A row without a record is routed afresh, by the moved biases; the other one is not.
    hidden, _ = forward(params, moved, aux["experts_LBTK"].at[:, 1].set(-1))
    np.testing.assert_allclose(hidden[0], want[0], atol=1e-6)
    assert np.abs(hidden[1] - want[1]).max() > 0.1
    hidden, _ = forward(params, buffers, aux["experts_LBTK"].at[:, 1].set(-1))
    np.testing.assert_allclose(hidden, want, atol=1e-6)


def test_cached_forward_records_and_replays_the_same(old):
    params, buffers, want, aux = old
    moved = jax.tree.map(lambda bias: -bias, buffers)
    cache = MODEL.init_cache(batch=2, length=6)
    hidden, cached_aux = jax.jit(run)(params, moved, aux["experts_LBTK"], cache=cache)
    np.testing.assert_allclose(hidden, want, atol=1e-5)
    np.testing.assert_array_equal(cached_aux["experts_LBTK"], aux["experts_LBTK"])
