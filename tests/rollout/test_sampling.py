import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.rollout.engine import row_uniforms, sample_tokens

sample = jax.jit(sample_tokens)


def draw(probs, num_draws, top_p=None, seed=0):
    """(tokens, logps) of ``num_draws`` samples of one distribution."""
    with np.errstate(divide="ignore"):
        logits = np.log(np.asarray(probs, np.float32))
    uniform = np.random.default_rng(seed).random(num_draws, np.float32)
    top_p = None if top_p is None else np.float32(top_p)
    tokens, logps = sample(np.tile(logits, (num_draws, 1)), uniform, top_p=top_p)
    return np.array(tokens), np.array(logps)


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
    tokens, logps = sample(logits, uniform)
    assert set(np.array(tokens).tolist()) <= {3, 300, 301}
    assert np.array(tokens)[[0, 1, 4, 5]].tolist() == [3, 3, 301, 301]
    np.testing.assert_allclose(logps, np.log(1 / 3), rtol=1e-6)


def test_top_p_keeps_the_smallest_set_and_the_full_log_probability():
    probs = np.array([0.05, 0.4, 0.15, 0.3, 0.1])
    for top_p, kept in ((0.39, {1}), (0.41, {1, 3}), (0.69, {1, 3}), (0.71, {1, 2, 3}), (1.0, {0, 1, 2, 3, 4})):
        tokens, logps = draw(probs, 2000, top_p=top_p)
        assert set(tokens.tolist()) == kept
        np.testing.assert_allclose(logps, np.log(probs[tokens]), atol=1e-5)
    tokens, _ = draw(probs, 2000, top_p=0.69)
    assert abs((tokens == 1).mean() - 4 / 7) < 0.04  # renormalised within the set


def test_uniforms_depend_on_key_row_and_step_alone():
    key = jax.random.key(3)
    function = jax.jit(row_uniforms)
    together = np.array(function(key, jnp.arange(8), jnp.int32(5)))
    np.testing.assert_array_equal(function(key, jnp.array([6, 1]), jnp.int32(5)), together[[6, 1]])
    assert len(set(together.tolist())) == 8 and (together >= 0).all() and (together < 1).all()
    assert not np.isin(together, function(key, jnp.arange(8), jnp.int32(6))).any()
    assert not np.isin(together, function(jax.random.key(4), jnp.arange(8), jnp.int32(5))).any()
