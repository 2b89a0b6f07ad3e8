"""DeepSeek-V3's router after its matmul, as plain jnp (V3 Sec. 2.1.2 Eqs. 12-16; spec A.5.1)."""

import jax
import jax.numpy as jnp


def route(
    affinity_XE: jax.Array,
    bias_E: jax.Array,
    *,
    num_experts_per_token: int,
    num_groups: int,
    num_groups_per_token: int,
    scaling: float,
) -> tuple[jax.Array, jax.Array]:
    """(weights, experts), each [X, K], from float32 affinities s = sigmoid(u·e).

    The bias moves selection and never weighs: experts are chosen by s + b, within the groups whose two highest s + b
    sum highest (the others are −inf); weights are scaling · s / Σ s over the chosen.
    """
    num_rows, num_experts = affinity_XE.shape
    selection_XE = affinity_XE + bias_E
    if num_groups > 1:
        by_group = selection_XE.reshape(num_rows, num_groups, num_experts // num_groups)
        best_two, _ = jax.lax.top_k(by_group, min(2, by_group.shape[-1]))
        _, kept = jax.lax.top_k(best_two.sum(-1), num_groups_per_token)
        allowed = jax.nn.one_hot(kept, num_groups, dtype=bool).any(axis=1)
        selection_XE = jnp.where(allowed[:, :, None], by_group, -jnp.inf).reshape(num_rows, num_experts)
    _, experts_XK = jax.lax.top_k(jax.lax.stop_gradient(selection_XE), num_experts_per_token)
    chosen_XK = (jax.nn.one_hot(experts_XK, num_experts) * affinity_XE[:, None]).sum(-1)  # a gather without a scatter
    weights_XK = scaling * chosen_XK / (chosen_XK.sum(axis=1, keepdims=True) + 1e-20)
    return weights_XK, experts_XK
