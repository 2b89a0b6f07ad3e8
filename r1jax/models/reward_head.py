"""The scalar head of a reward model: the decoder's last hidden state times one vector (R1 Sec. 3.1: "same as R1" with a
head).

A reward model's parameters are the policy's with one more entry, ``{**params, "reward_head": {"w_D": ...}}``: whoever
takes only what the policy has can load it as a policy. There is no bias, as in Hugging Face's sequence classifiers.
"""

import jax
import jax.numpy as jnp

from r1jax.models.config import ModelConfig
from r1jax.models.transformer import Model

REWARD_HEAD = "reward_head"


def init_reward_head(config: ModelConfig, key: jax.Array) -> dict[str, jax.Array]:
    """Normal(0, init_std) float32 weights of a new head."""
    return {"w_D": jax.random.normal(key, (config.model_dim,)) * config.init_std}


def reward_head_axes() -> dict[str, tuple[str | None, ...]]:
    """Logical axes of the head's arrays."""
    return {"w_D": ("embed",)}


def rewards_at_end(model: Model, params, buffers, tokens_BT: jax.Array, lengths_B: jax.Array) -> tuple[jax.Array, dict]:
    """(reward of each sequence [B] float32, read at its last token; aux of ``Model.hidden``).

    tokens_BT: sequences padded on the right with anything; lengths_B: tokens of each, 0 for a row that is no sequence
    (its reward is finite and means nothing).
    """
    places_T = jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)
    segments_BT = (places_T < lengths_B[:, None]).astype(jnp.int32)
    policy = {name: value for name, value in params.items() if name != REWARD_HEAD}
    hidden_BTD, _, aux = model.hidden(
        policy,
        buffers,
        tokens_BT,
        positions_BT=places_T * segments_BT,
        segments_BT=segments_BT,
    )
    last_B = jnp.maximum(lengths_B - 1, 0)
    hidden_BD = jnp.take_along_axis(hidden_BTD, last_B[:, None, None], axis=1)[:, 0].astype(jnp.float32)
    return hidden_BD @ params[REWARD_HEAD]["w_D"].astype(jnp.float32), aux
