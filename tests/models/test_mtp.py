"""MTP depths: packing, their own weights, a cache. Their wiring: test_against_transformers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models.transformer import make_model
from tests.tiny import GQA, V3, shaken

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
    hidden, _, aux = MODEL.mtp_hidden(
        *trees, hidden, next_tokens, depth=depth, positions_BT=positions, segments_BT=segments
    )
    return hidden, aux


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


TOKENS = np.random.default_rng(2).integers(0, 48, (2, LENGTH + 2)).astype(np.int32)
TABLE = np.array([[6, 1, 9, 4], [3, 8, 0, 2]], np.int32)
"""Pages of 4 tokens."""


def set_back(cache, lengths):
    """The cache as if it held so many tokens of each row."""
    if isinstance(cache, dict):
        return cache | {"length": jnp.asarray(lengths)[0]}
    return dataclasses.replace(cache, lengths_B=jnp.asarray(lengths))


class Drafter:
    """A model and its MTP depths over a cache of either kind."""

    def __init__(self, config, kind):
        self.model, self.kind = make_model(config), kind
        self.trees = shaken(self.model)
        self._forward = jax.jit(self._all_depths, static_argnames="is_prefill")

    def empty(self):
        count = {"num_mtp_layers": self.model.config.num_mtp_layers}
        if self.kind == "dense":
            return self.model.init_cache(batch=2, length=16, **count)
        return self.model.init_paged_cache(page_table_BI=TABLE, num_pages=10, page_size=4, **count)

    def _all_depths(self, tokens, ahead, starts, cache=None, is_prefill=False):
        """(logits of the model and of each depth, cache) of tokens from ``starts`` on; ``ahead``: those after each."""
        places = {"positions_BT": starts[:, None] + np.arange(tokens.shape[1]), "segments_BT": tokens * 0 + 1}
        options = places | {"is_prefill": is_prefill}
        hidden, cache, _ = self.model.hidden(*self.trees, tokens, cache=cache, **options)
        logits = [self.model.logits(self.trees[0], hidden)]
        for depth, next_tokens in enumerate(ahead):
            cache = None if cache is None else set_back(cache, starts)
            hidden, cache, _ = self.model.mtp_hidden(
                *self.trees, hidden, next_tokens, depth=depth, cache=cache, **options
            )
            logits.append(self.model.logits(self.trees[0], hidden))
        return logits, cache

    def forward(self, starts, count, cache=None, *, wrong=0, is_prefill=False):
        """As ``_all_depths``, of ``count`` tokens a row of which the last ``wrong`` are other ones."""
        starts = np.asarray(starts, np.int32)
        indices = starts[:, None] + np.arange(count)
        tokens, *ahead = (
            np.take_along_axis(TOKENS, indices + depth, axis=1) for depth in range(self.model.config.num_mtp_layers + 1)
        )
        tokens[:, count - wrong :] = 47 - tokens[:, count - wrong :]
        return self._forward(tokens, ahead, starts, cache, is_prefill=is_prefill)


ONE_DEPTH = {"v3": dataclasses.replace(CONFIG, num_mtp_layers=1), "gqa": dataclasses.replace(GQA, num_mtp_layers=1)}


@pytest.mark.parametrize("kind", ["dense", "paged"])
@pytest.mark.parametrize("config", [CONFIG, ONE_DEPTH["gqa"]], ids=["v3", "gqa"])
def test_with_a_cache_it_gives_what_the_whole_sequence_gives(config, kind):
    """After a prefill, then one and several tokens a step."""
    drafter = Drafter(config, kind)
    want, _ = drafter.forward([0, 0], LENGTH)
    logits, cache = drafter.forward([0, 0], 5, drafter.empty(), is_prefill=True)
    parts, start = [logits], 5
    for count in (1, 1, 3, 1):
        logits, cache = drafter.forward([start, start], count, cache)
        parts, start = [*parts, logits], start + count
    for model_or_depth, whole in enumerate(want):
        got = np.concatenate([logits[model_or_depth] for logits in parts], axis=1)
        np.testing.assert_allclose(got, whole[:, :start], atol=1e-5)
    assert len(want) == 1 + config.num_mtp_layers


@pytest.mark.parametrize(("kind", "accepted"), [("dense", (2, 2)), ("paged", (1, 2))])
def test_drafts_that_were_rejected_leave_nothing(kind, accepted):
    """Of three tokens the last is wrong; the lengths are set back to what was accepted, and right ones take the slots."""
    drafter = Drafter(ONE_DEPTH["v3"], kind)
    want, _ = drafter.forward([0, 0], LENGTH)
    _, cache = drafter.forward([0, 0], 5, drafter.empty(), is_prefill=True)
    wrong, rejected = drafter.forward([5, 5], 3, cache, wrong=1)
    starts = 5 + np.array(accepted)
    logits, _ = drafter.forward(starts, 3, set_back(rejected, starts))
    for model_or_depth, whole in enumerate(want):
        np.testing.assert_allclose(wrong[model_or_depth][:, :2], whole[:, 5:7], atol=1e-5)
        assert np.abs(wrong[model_or_depth][:, 2] - whole[:, 7]).max() > 0.1
        for row, start in enumerate(starts):
            np.testing.assert_allclose(logits[model_or_depth][row], whole[row, start : start + 3], atol=1e-5)
