"""DeepSeek-V3's mixture of experts (V3 Sec. 2.1.2; spec A.5): sigmoid router with a selection bias, shared expert."""

import jax
import jax.numpy as jnp
from flax import nnx

from r1jax.kernels.grouped_matmul import expert_ffn
from r1jax.kernels.route import route
from r1jax.models.config import ModelConfig
from r1jax.models.layers import Buffer, SwiGLU, param


class MoE(nnx.Module):
    """y = Σ_k g_k · Expert_k(x) + Shared(x); affinities in float32, no token dropped."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = c = config
        dim, ffn, experts, std = c.model_dim, c.expert_ffn_dim, c.num_experts, c.init_std
        self.w_router_DE = param(rngs, (dim, experts), axes=("embed", None), std=std)
        self.router_bias_E = Buffer(jnp.zeros((experts,)), axes=(None,))
        self.w_gate_EDF = param(rngs, (experts, dim, ffn), axes=("experts", "embed", "mlp"), std=std)
        self.w_up_EDF = param(rngs, (experts, dim, ffn), axes=("experts", "embed", "mlp"), std=std)
        self.w_down_EFD = param(rngs, (experts, ffn, dim), axes=("experts", "mlp", "embed"), std=std)
        if c.num_shared_experts:
            self.shared = SwiGLU(dim, c.num_shared_experts * ffn, std=std, rngs=rngs)

    def __call__(self, x_BTD: jax.Array, *, segments_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(output [B, T, D], tokens routed to each expert [E], padding not counted)."""
        c = self.config
        x_XD = x_BTD.reshape(-1, x_BTD.shape[-1])
        affinity_XE = jax.nn.sigmoid(
            jnp.einsum(
                "xd,de->xe",
                x_XD.astype(jnp.float32),
                self.w_router_DE[...].astype(jnp.float32),
                precision=jax.lax.Precision.HIGHEST,  # the default of TPU and GPU rounds the inputs
            )
        )
        weights_XK, experts_XK = route(
            affinity_XE,
            self.router_bias_E[...],
            num_experts_per_token=c.num_experts_per_token,
            num_groups=c.num_groups,
            num_groups_per_token=c.num_groups_per_token,
            scaling=c.routed_scaling,
        )
        out_XD = expert_ffn(
            x_XD, experts_XK, weights_XK, self.w_gate_EDF[...], self.w_up_EDF[...], self.w_down_EFD[...]
        )
        out_BTD = out_XD.reshape(x_BTD.shape)
        if c.num_shared_experts:
            out_BTD = out_BTD + self.shared(x_BTD)
        counted_XK = jax.nn.one_hot(experts_XK, c.num_experts) * (segments_BT.reshape(-1, 1, 1) > 0)
        return out_BTD, counted_XK.sum((0, 1))
