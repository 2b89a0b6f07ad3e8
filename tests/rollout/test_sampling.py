import dataclasses

import jax
import numpy as np
import pytest

from r1jax.rollout.sampling import Sampling, keys_of_rows, sample_tokens, uniforms

jitted = jax.jit(sample_tokens, static_argnames="features")


def sample(logits_NV, uniform_N, **settings):
    """What ``sample_tokens`` says of N rows of one token."""
    sampling = Sampling(**settings)
    arrays = {name: np.full(len(logits_NV), value, np.float32) for name, value in dataclasses.asdict(sampling).items()}
    out = jitted(logits_NV[:, None], uniform_N[:, None], arrays, features=sampling.features)
    return {name: np.array(array)[:, 0] for name, array in out.items()}


def draw(probs, num_draws, *, seed=0, **settings):
    """(tokens, logps) of ``num_draws`` samples of one distribution."""
    with np.errstate(divide="ignore"):
        logits = np.log(np.asarray(probs, np.float32))
    uniform = np.random.default_rng(seed).random(num_draws, np.float32)
    out = sample(np.tile(logits, (num_draws, 1)), uniform, **settings)
    return out["token"], out["logp"]


@pytest.mark.parametrize("vocab_size", [10, 1000])  # less than one block of 256, and four of them, the last one padded
def test_samples_follow_the_distribution(vocab_size):
    probs = np.random.default_rng(1).dirichlet(np.full(vocab_size, 0.5))
    probs[1::7] = 0.0
    probs /= probs.sum()
    tokens, logps = draw(probs, 20_000)
    counts = np.bincount(tokens, minlength=vocab_size)
    assert counts.shape == (vocab_size,)
    np.testing.assert_array_equal(counts[probs == 0], 0)
    np.testing.assert_allclose(logps, np.log(probs[tokens]), atol=1e-4)
    # Pearson's chi-square, tokens with fewer than five expected taken together.
    expected = 20_000 * probs
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(expected[common], max(expected[~common].sum(), 1e-9))
    freedom = common.sum()
    chi_square = ((observed - expected) ** 2 / expected).sum()
    assert freedom - 5 * np.sqrt(2 * freedom) < chi_square < freedom + 5 * np.sqrt(2 * freedom)


def test_extreme_uniforms_never_give_a_token_of_probability_zero():
    logits = np.full((6, 600), -np.inf, np.float32)
    logits[:, [3, 300, 301]] = 0.0
    uniform = np.array([0.0, 1e-7, 1 / 3, 2 / 3, 1 - 2**-23, 1.0], np.float32)
    out = sample(logits, uniform)
    assert set(out["token"].tolist()) <= {3, 300, 301}
    assert out["token"][[0, 1, 4, 5]].tolist() == [3, 3, 301, 301]
    np.testing.assert_allclose(out["logp"], np.log(1 / 3), rtol=1e-6)


def test_top_p_keeps_the_smallest_set_and_the_full_log_probability():
    probs = np.array([0.05, 0.4, 0.15, 0.3, 0.1])
    for top_p, kept in ((0.39, {1}), (0.41, {1, 3}), (0.69, {1, 3}), (0.71, {1, 2, 3}), (1.0, {0, 1, 2, 3, 4})):
        tokens, logps = draw(probs, 2000, top_p=top_p)
        assert set(tokens.tolist()) == kept
        np.testing.assert_allclose(logps, np.log(probs[tokens]), atol=1e-5)
    tokens, _ = draw(probs, 2000, top_p=0.69)
    assert abs((tokens == 1).mean() - 4 / 7) < 0.04  # renormalised within the set


def kept_by(probs, *, top_k=0, top_p=1.0, min_p=0.0):
    """The definition: top-k, then top-p of what is left, then min-p."""
    order = np.argsort(-probs, kind="stable")
    ranked = probs[order]
    if top_k:
        ranked = np.where(np.arange(len(ranked)) < top_k, ranked, 0)
    ranked = np.where(np.cumsum(ranked) - ranked < top_p * ranked.sum(), ranked, 0)
    ranked = np.where(ranked >= min_p * probs.max(), ranked, 0)
    return set(order[ranked > 0].tolist())


@pytest.mark.parametrize("seed", range(8))
def test_filters_keep_what_their_definitions_keep(seed):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(400, 0.2))
    settings = {
        "top_k": int(rng.choice([0, 1, 5, 60])),
        "top_p": rng.choice([1.0, 0.3, 0.95]),
        "min_p": rng.choice([0, 0.2]),
    }
    kept = kept_by(probs.astype(np.float32), **settings)
    logits = np.log(np.maximum(probs, 1e-38)).astype(np.float32)
    uniform = np.append(np.linspace(0, 1, 4000), 1 - 1e-7).astype(np.float32)
    out = sample(np.tile(logits, (len(uniform), 1)), uniform, **settings)
    seen = set(out["token"].tolist())
    mass = probs[list(kept)].sum()
    assert seen <= kept and {token for token in kept if probs[token] > 3e-4 * mass} <= seen
    np.testing.assert_allclose(out["logp"], np.log(probs[out["token"]]), atol=1e-4)
    if "sampled_logp" in out:
        np.testing.assert_allclose(out["sampled_logp"], np.log(probs[out["token"]] / mass), atol=1e-4)


def test_equally_likely_tokens_are_kept_or_left_together():
    tokens, _ = draw(np.array([0.4, 0.2, 0.2, 0.2]), 2000, top_p=0.5)
    assert set(tokens.tolist()) == {0, 1, 2, 3}


def test_uniforms_depend_on_key_row_and_number_alone():
    keys = keys_of_rows(jax.random.key(3), 8)
    np.testing.assert_array_equal(keys_of_rows(jax.random.key(3), 5), keys[:5])
    function = jax.jit(uniforms)
    numbers = np.broadcast_to(np.arange(5, 8), (8, 3))
    together = np.array(function(keys, numbers))
    np.testing.assert_array_equal(function(keys[[6, 1]], numbers[:2, 1:]), together[[6, 1], 1:])
    assert len(set(together.reshape(-1).tolist())) == 24 and (together >= 0).all() and (together < 1).all()
    assert not np.isin(together, function(keys_of_rows(jax.random.key(4), 8), numbers)).any()
