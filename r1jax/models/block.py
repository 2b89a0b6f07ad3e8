"""One layer of the decoder, and one depth of multi-token prediction."""

import jax
import jax.numpy as jnp
from flax import nnx

from r1jax.models.config import ModelConfig
from r1jax.models.gqa import GQA
from r1jax.models.layers import RMSNorm, SwiGLU, param, project
from r1jax.models.mla import MLA
from r1jax.models.moe import MoE
from r1jax.sharding import TOKENS, constrain


class Block(nnx.Module):
    """h + Attention(norm(h)), then h + FFN(norm(h)) (spec A.2)."""

    def __init__(self, config: ModelConfig, *, is_moe: bool, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.model_dim, eps=config.rms_eps)
        self.attention = (MLA if config.attention == "mla" else GQA)(config, rngs=rngs)
        self.ffn_norm = RMSNorm(config.model_dim, eps=config.rms_eps)
        if is_moe:
            self.ffn = MoE(config, rngs=rngs)
        else:
            self.ffn = SwiGLU(config.model_dim, config.ffn_dim, std=config.init_std, rngs=rngs)

    def __call__(
        self,
        h_BTD: jax.Array,
        *,
        segments_BT: jax.Array,
        prefixes_BT=None,
        balance: bool = False,
        record: bool = False,
        replayed_BTK=None,
        **attention_inputs,
    ):
        """(h, the layer's cache or None, what its router says (see ``MoE``): {} in a dense layer)."""
        ids = {"segments_BT": segments_BT, "prefixes_BT": prefixes_BT}
        role = "train" if attention_inputs.get("cache") is None else "rollout"
        with jax.named_scope("attention"):
            out_BTD, cache = self.attention(self.attention_norm(h_BTD), **ids, **attention_inputs)
        h_BTD = constrain(h_BTD + out_BTD, (*TOKENS, None), role=role)
        with jax.named_scope("ffn"):
            x_BTD = self.ffn_norm(h_BTD)
            if isinstance(self.ffn, MoE):
                options = {"balance": balance, "record": record, "replayed_BTK": replayed_BTK}
                out_BTD, routing = self.ffn(x_BTD, **ids, role=role, **options)
            else:
                out_BTD, routing = self.ffn(x_BTD), {}
        return constrain(h_BTD + out_BTD, (*TOKENS, None), role=role), cache, routing


class MTP(nnx.Module):
    """norm(Block(M [norm(Emb(t_{i+1})); norm(h_i)])), one depth of multi-token prediction (V3 Sec. 2.2 Eqs. 21-25; spec
    A.6).

    Embedding and head are the main model's. Wired as the released weights need it, which deviates from the paper's
    equations: the projection takes the embedding first and the hidden state second, and that hidden state is the main
    model's *after* its final norm; a depth further on takes this depth's, after its own.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        dim, eps = config.model_dim, config.rms_eps
        self.embed_norm = RMSNorm(dim, eps=eps)
        self.hidden_norm = RMSNorm(dim, eps=eps)
        self.w_proj_AD = param(rngs, (2 * dim, dim), axes=("embed", None), std=config.init_std)
        self.block = Block(config, is_moe=config.num_experts > 0, rngs=rngs)
        self.final_norm = RMSNorm(dim, eps=eps)

    def __call__(self, hidden_BTD: jax.Array, embedded_BTD: jax.Array, **block_inputs):
        """(hidden [B, T, D] after the depth's norm, the layer's cache or None, what the router says)."""
        both = jnp.concatenate([self.embed_norm(embedded_BTD), self.hidden_norm(hidden_BTD)], axis=-1)
        h_BTD, cache, routing = self.block(project(both, self.w_proj_AD), **block_inputs)
        return self.final_norm(h_BTD), cache, routing


def stacked(make, num_layers: int, *, rngs: nnx.Rngs):
    """``num_layers`` modules of ``make(rngs)`` as one whose arrays have a leading layer dim."""
    return nnx.vmap(lambda key: make(nnx.Rngs(params=key)), in_axes=0)(jax.random.split(rngs.params(), num_layers))
