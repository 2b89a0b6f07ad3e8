"""One depth of multi-token prediction, wired as the released weights need it (V3 Sec. 2.2 Eqs. 21-25; spec A.6).

Deviations of the checkpoint from the paper's equations: the projection takes the embedding first and the hidden state second, and
that hidden state is the main model's *after* its final norm; a depth further on takes this depth's, after its own.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from r1jax.models.block import Block
from r1jax.models.config import ModelConfig
from r1jax.models.layers import RMSNorm, param, project


class MTP(nnx.Module):
    """norm(Block(M [norm(Emb(t_{i+1})); norm(h_i)])); embedding and head are the main model's."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        dim, eps = config.model_dim, config.rms_eps
        self.embed_norm = RMSNorm(dim, eps=eps)
        self.hidden_norm = RMSNorm(dim, eps=eps)
        self.w_proj_AD = param(rngs, (2 * dim, dim), axes=("embed", None), std=config.init_std)
        self.block = Block(config, is_moe=config.num_experts > 0, rngs=rngs)
        self.final_norm = RMSNorm(dim, eps=eps)

    def __call__(self, hidden_BTD: jax.Array, embedded_BTD: jax.Array, **block_inputs):
        """(hidden [B, T, D] after the depth's norm, what the router says)."""
        both = jnp.concatenate([self.embed_norm(embedded_BTD), self.hidden_norm(hidden_BTD)], axis=-1)
        h_BTD, _, routing = self.block(project(both, self.w_proj_AD), **block_inputs)
        return self.final_norm(h_BTD), routing
