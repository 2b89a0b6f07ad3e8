import jax
import jax.numpy as jnp
import numpy as np

from r1jax.models.reward_head import REWARD_HEAD, init_reward_head, reward_head_axes, rewards_at_end
from r1jax.models.transformer import make_model
from tests.tiny import V3, padded, shaken


def with_head(model):
    params, buffers = shaken(model)
    return {**params, REWARD_HEAD: init_reward_head(model.config, jax.random.key(1))}, buffers


def test_the_reward_is_the_last_tokens_hidden_state_times_the_head_whatever_the_padding():
    model = make_model(V3)
    params, buffers = with_head(model)
    tokens_BT, positions_BT, segments_BT = padded([[5, 6, 7, 8, 9], [3, 4], [1]], length=6)
    lengths_B = jnp.array([5, 2, 0])
    rewards_B, aux = rewards_at_end(model, params, buffers, jnp.asarray(tokens_BT), lengths_B)

    policy = {name: value for name, value in params.items() if name != REWARD_HEAD}
    hidden_BTD, _, _ = model.hidden(policy, buffers, tokens_BT, positions_BT=positions_BT, segments_BT=segments_BT)
    w_D = np.asarray(params[REWARD_HEAD]["w_D"])
    np.testing.assert_allclose(rewards_B[0], np.asarray(hidden_BTD[0, 4]) @ w_D, rtol=1e-5)
    np.testing.assert_allclose(rewards_B[1], np.asarray(hidden_BTD[1, 1]) @ w_D, rtol=1e-5)
    assert rewards_B.dtype == jnp.float32 and np.isfinite(rewards_B).all()
    # a row that is no sequence routes no token
    assert np.asarray(aux["expert_counts_LE"]).sum(axis=1).tolist() == [7 * V3.num_experts_per_token] * 2

    filled_BT = np.where(segments_BT == 0, 47, tokens_BT)
    filled_B, _ = rewards_at_end(model, params, buffers, jnp.asarray(filled_BT), lengths_B)
    np.testing.assert_array_equal(filled_B[:2], rewards_B[:2])


def test_a_new_head_has_the_models_spread_and_one_axis():
    head = init_reward_head(V3, jax.random.key(0))
    assert head["w_D"].shape == (32,) and head["w_D"].dtype == jnp.float32
    assert 0.1 < float(head["w_D"].std()) < 0.3  # init_std 0.2
    assert reward_head_axes() == {"w_D": ("embed",)}
