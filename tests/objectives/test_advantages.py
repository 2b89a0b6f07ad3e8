import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.objectives.advantages import decoupled_advantages, group_advantages, is_zero_variance

REWARDS_PG = jnp.array([[1.0, 0, 0, 0], [2, 1, 1, 0]])


def test_std_is_the_paper_with_population_deviation():
    got_PG = group_advantages(REWARDS_PG, normalization="std")
    root = np.sqrt(2.0)
    want_PG = [[1.7320508, -0.5773503, -0.5773503, -0.5773503], [root, 0, 0, -root]]
    np.testing.assert_allclose(got_PG, want_PG, atol=1e-5)


def test_mean_only():
    got_PG = group_advantages(REWARDS_PG, normalization="mean")
    np.testing.assert_allclose(got_PG, [[0.75, -0.25, -0.25, -0.25], [1, 0, 0, -1]])


def test_leave_one_out_is_reward_minus_mean_of_the_others():
    got_PG = group_advantages(REWARDS_PG, normalization="leave_one_out")
    third = 1 / 3
    np.testing.assert_allclose(got_PG, [[1, -third, -third, -third], [4 * third, 0, 0, -4 * third]], atol=1e-6)


@pytest.mark.parametrize("normalization", ["std", "mean", "leave_one_out"])
def test_all_equal_group_gives_exactly_zero(normalization):
    # The mean of three float32 0.1 is not 0.1: dividing that by eps alone would make an advantage of noise.
    rewards_PG = jnp.array([[0.1] * 3, [1.7] * 3, [0.0] * 3, [0.0, 0.0, 1.0]])
    got_PG = group_advantages(rewards_PG, normalization=normalization)
    np.testing.assert_array_equal(got_PG[:3], 0)
    assert got_PG[3, 2] > 0.5
    np.testing.assert_array_equal(is_zero_variance(rewards_PG), [True, True, True, False])


def test_groups_do_not_mix_and_scale_does_not_matter():
    alone_PG = group_advantages(REWARDS_PG[:1])
    np.testing.assert_array_equal(group_advantages(REWARDS_PG)[:1], alone_PG)
    np.testing.assert_allclose(group_advantages(100 * REWARDS_PG[:1] - 7), alone_PG, atol=1e-4)


NAN = float("nan")


@pytest.mark.parametrize("normalization", ["std", "mean", "leave_one_out"])
def test_an_output_without_reward_is_left_out_of_its_group(normalization):
    rewards_PG = jnp.array([[1.0, NAN, 0, 0, 2], [NAN, 3, NAN, 5, 5]])
    got_PG = np.asarray(group_advantages(rewards_PG, normalization=normalization))
    assert got_PG[0, 1] == got_PG[1, 0] == got_PG[1, 2] == 0.0
    for row, kept in ((0, [0, 2, 3, 4]), (1, [1, 3, 4])):
        alone_PG = group_advantages(rewards_PG[row : row + 1, jnp.array(kept)], normalization=normalization)
        np.testing.assert_allclose(got_PG[row, kept], alone_PG[0], atol=1e-6)
    if normalization == "mean":  # with 0 in its place the mean would be 0.6
        np.testing.assert_allclose(got_PG[0], [0.25, 0, -0.75, -0.75, 1.25], atol=1e-6)


@pytest.mark.parametrize("normalization", ["std", "mean", "leave_one_out"])
def test_a_group_with_fewer_than_two_rewards_gets_zero(normalization):
    rewards_PG = jnp.array([[NAN, 4.0, NAN], [NAN, NAN, NAN], [1.0, NAN, 0.0]])
    got_PG = group_advantages(rewards_PG, normalization=normalization)
    np.testing.assert_array_equal(got_PG[:2], 0)
    assert got_PG[2, 0] > 0.4
    np.testing.assert_array_equal(is_zero_variance(rewards_PG), [True, True, False])


def numpy_decoupled(rewards, weights):
    """GDPO in numpy, group by group: normalise, weigh, add, divide by the deviation over all that have a reward."""
    total = np.zeros(rewards[0].shape)
    for values_PG, weight in zip(rewards, weights, strict=True):
        for row, values in enumerate(values_PG):
            known = values[~np.isnan(values)]
            if known.size > 1 and known.std() > 0:
                total[row] += weight * np.nan_to_num((values - known.mean()) / (known.std() + 1e-6))
    applies = ~np.isnan(rewards).all(axis=0)
    return np.where(applies, (total - total[applies].mean()) / (total[applies].std() + 1e-6), 0.0)


def test_decoupled_normalises_each_reward_by_itself():
    rng = np.random.default_rng(0)
    correct = rng.integers(0, 2, (6, 5)).astype(np.float32)
    length = rng.normal(size=(6, 5)).astype(np.float32) * 100
    correct[0], correct[1, 2], length[2] = 1.0, NAN, NAN
    correct[3, 1] = length[3, 1] = NAN
    got_PG = decoupled_advantages([jnp.array(correct), jnp.array(length)], [1.0, 0.5])
    np.testing.assert_allclose(got_PG, numpy_decoupled([correct, length], [1.0, 0.5]), atol=2e-5)
    assert got_PG[3, 1] == 0.0
    # The range of a reward does not matter, where a sum would be all length.
    scaled_PG = decoupled_advantages([jnp.array(correct), jnp.array(length) * 1000], [1.0, 0.5])
    np.testing.assert_allclose(scaled_PG, got_PG, atol=1e-4)


def test_decoupled_literal_and_zero_where_nothing_differs():
    first, second = jnp.array([[0.0, 1.0], [2.0, 2.0]]), jnp.array([[10.0, 0.0], [7.0, 7.0]])
    # Weights 3 and 1: +-(3 - 1) = 2, and 0 twice; the root of the mean square is sqrt(2).
    got_PG = decoupled_advantages([first, second], [3.0, 1.0])
    np.testing.assert_allclose(got_PG, [[-(2**0.5), 2**0.5], [0, 0]], atol=1e-4)
    np.testing.assert_array_equal(got_PG[1], 0.0)
    np.testing.assert_array_equal(decoupled_advantages([second[1:]], [1.0]), 0.0)


def test_group_of_one_and_unknown_normalization_are_errors():
    with pytest.raises(ValueError, match="at least 2 outputs"):
        group_advantages(jnp.ones((4, 1)))
    with pytest.raises(ValueError, match="2 dims"):
        group_advantages(jnp.ones(4))
    with pytest.raises(ValueError, match=r"normalization must be one of .*'rank'"):
        group_advantages(REWARDS_PG, normalization="rank")


@pytest.mark.parametrize("normalization", ["std", "mean", "leave_one_out"])
def test_large_rewards_keep_their_signal(normalization):
    small_PG = np.array([[0.0, 1.0, 2.0, 3.0]])
    want_PG = group_advantages(small_PG / 100, normalization=normalization)
    got_PG = group_advantages(1e6 + small_PG / 100, normalization=normalization)
    np.testing.assert_allclose(got_PG, want_PG, rtol=1e-4)


def test_huge_rewards_do_not_overflow():
    got_PG = group_advantages(np.array([[-1e20, 1e20, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]))
    root = np.sqrt(2.0)
    np.testing.assert_allclose(got_PG[0], [-root, root, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(got_PG[1:], group_advantages(np.array([[1.0, 0.0, 0.0, 0.0]])))


def test_huge_rewards_are_normalised_by_themselves_too():
    rewards = [np.array([[1e20, 0, 0, 0]]), np.array([[1.0, 0, 1, 0]])]
    got_PG = decoupled_advantages(rewards, [1.0, 1.0], normalization="mean")
    np.testing.assert_allclose(got_PG, [[3**0.5, *[-(3**-0.5)] * 3]], rtol=1e-5)


def test_rounding_of_a_sum_is_no_difference():
    rewards_PG = np.array([[0.1 + 0.2, 0.3], [1e6, 1e6 + 0.01]])
    assert rewards_PG[0, 0] != rewards_PG[0, 1]
    np.testing.assert_array_equal(is_zero_variance(rewards_PG), [True, False])
