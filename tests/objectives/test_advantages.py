import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.objectives.advantages import group_advantages, is_zero_variance

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


def test_group_of_one_and_unknown_normalization_are_errors():
    with pytest.raises(ValueError, match="at least 2 outputs"):
        group_advantages(jnp.ones((4, 1)))
    with pytest.raises(ValueError, match="2 dims"):
        group_advantages(jnp.ones(4))
    with pytest.raises(ValueError, match=r"normalization must be one of .*'rank'"):
        group_advantages(REWARDS_PG, normalization="rank")
