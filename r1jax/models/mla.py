"""Multi-head latent attention (V3 Sec. 2.1.1 Eqs. 1-11; spec A.3).

Keys and values are linear in a latent of C numbers a token (plus one rotated key of R numbers that all heads share),
and only those are cached. Two forms of the same function: *expanded*, per-head keys and values rebuilt from the latent
(training, prefill of an empty cache); *absorbed*, the up-projections folded into the query and the output, so that
decode reads the latent alone (spec A.3.2).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from r1jax.kernels.flash_attention import flash_attention
from r1jax.models.cache import Slots
from r1jax.models.config import ModelConfig
from r1jax.models.layers import RMSNorm, param, project
from r1jax.models.rope import apply_rope, yarn_mscale
from r1jax.models.sequence_parallel import attend_over_sequence, ids_of, mask_options
from r1jax.sharding import TOKENS

_LATENT_EPS = 1e-6
"""Of the latents' norms, whatever the config's eps: so in the released code and in transformers (vLLM takes the config's)."""


class MLA(nnx.Module):
    """Low-rank queries and keys/values with a decoupled rotated part; no bias anywhere."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = c = config
        dim, heads, std = c.model_dim, c.num_heads, c.init_std
        nope, rope, value, latent = c.nope_head_dim, c.rope_head_dim, c.value_head_dim, c.kv_lora_rank
        if c.q_lora_rank:
            self.w_dq_DQ = param(rngs, (dim, c.q_lora_rank), axes=("embed", None), std=std)
            self.q_norm = RMSNorm(c.q_lora_rank, eps=_LATENT_EPS)
            self.w_uq_QNA = param(rngs, (c.q_lora_rank, heads, nope + rope), axes=("latent", "heads", None), std=std)
        else:
            self.w_q_DNA = param(rngs, (dim, heads, nope + rope), axes=("embed", "heads", None), std=std)
        self.w_dkv_DC = param(rngs, (dim, latent + rope), axes=("embed", None), std=std)
        self.kv_norm = RMSNorm(latent, eps=_LATENT_EPS)
        self.w_ukv_CNA = param(rngs, (latent, heads, nope + value), axes=("latent", "heads", None), std=std)
        self.w_o_NUD = param(rngs, (heads, value, dim), axes=("heads", None, "embed"), std=std)

    @property
    def softmax_scale(self) -> float:
        """(nope + rope)^−½ · m(factor, mscale_all_dim)²; 0.1352337789 for V3 (spec A.4.3)."""
        c = self.config
        scale = (c.nope_head_dim + c.rope_head_dim) ** -0.5
        return scale * yarn_mscale(c.yarn.factor, c.yarn.mscale_all_dim) ** 2 if c.yarn else scale

    def __call__(
        self, x_BTD: jax.Array, *, angles, segments_BT, prefixes_BT=None, cache: Any = None, slots: Slots | None = None
    ):
        """(output [B, T, D], the layer's cache with these tokens in ``slots``).

        Where the slots are read, attention is over all of the cache, in the absorbed form; else among the given tokens
        alone.
        """
        c = self.config
        if c.q_lora_rank:
            q_latent_BTQ = self.q_norm(project(x_BTD, self.w_dq_DQ))
            q_BTNA = project(q_latent_BTQ, self.w_uq_QNA)
        else:
            q_BTNA = project(x_BTD, self.w_q_DNA)
        q_nope_BTNH, q_rope_BTNR = jnp.split(q_BTNA, [c.nope_head_dim], axis=-1)
        q_rope_BTNR = apply_rope(q_rope_BTNR, *angles, interleaved=True)

        latent_BTC, k_rope_BTR = jnp.split(project(x_BTD, self.w_dkv_DC), [c.kv_lora_rank], axis=-1)
        latent_BTC = self.kv_norm(latent_BTC)
        k_rope_BTR = apply_rope(k_rope_BTR, *angles, interleaved=True)
        if slots is not None:
            cache = slots.write(cache, {"latent_BTC": latent_BTC, "rope_BTR": k_rope_BTR})

        if slots is not None and slots.is_read:
            out_BTNU = self._absorbed(q_nope_BTNH, q_rope_BTNR, cache, slots)
        else:
            ids = ids_of(segments_BT, prefixes_BT)
            out_BTNU = self._expanded(q_nope_BTNH, q_rope_BTNR, latent_BTC, k_rope_BTR, ids, is_training=slots is None)
        return project(out_BTNU, self.w_o_NUD, num_contracted=2), cache

    def _expanded(self, q_nope_BTNH, q_rope_BTNR, latent_BTC, k_rope_BTR, ids, *, is_training):
        def attend_to(keys, weights):
            kv_BSNA = project(keys["latent"], weights["ukv"])
            k_nope_BSNH, v_BSNU = jnp.split(kv_BSNA, [self.config.nope_head_dim], axis=-1)

            def attend(queries, q_offset):
                ropes = {"q_rope_BTNR": queries["rope"], "k_rope_BSR": keys["rope"]}
                options = {"scale": self.softmax_scale, "implementation": self.config.attention_implementation}
                options |= ropes | mask_options(queries, keys)
                return flash_attention(queries["nope"], k_nope_BSNH, v_BSNU, q_offset=q_offset, **options)

            return attend

        per_head, latent, (of_queries, of_keys) = (*TOKENS, "heads", None), (*TOKENS, None), ids
        queries = {"nope": (q_nope_BTNH, per_head), "rope": (q_rope_BTNR, per_head)} | of_queries
        keys = {"latent": (latent_BTC, latent), "rope": (k_rope_BTR, latent)} | of_keys
        weights = {"ukv": (self.w_ukv_CNA[...].astype(latent_BTC.dtype), (None, "heads", None))}
        return attend_over_sequence(attend_to, queries, keys, weights, is_training=is_training)

    def _absorbed(self, q_nope_BTNH, q_rope_BTNR, cache, slots: Slots):
        w_uk_CNH, w_uv_CNU = jnp.split(self.w_ukv_CNA[...], [self.config.nope_head_dim], axis=-1)
        q_latent_BTNC = _per_head("btnh,cnh->btnc", q_nope_BTNH, w_uk_CNH)
        z_BTNC = slots.attend(cache, q_latent_BTNC, q_rope_BTNR, scale=self.softmax_scale)
        return _per_head("btnc,cnu->btnu", z_BTNC, w_uv_CNU)


def _per_head(spec: str, x: jax.Array, w: jax.Array) -> jax.Array:
    """Each head with its own matrix, sums in float32."""
    return jnp.einsum(spec, x, w.astype(x.dtype), preferred_element_type=jnp.float32).astype(x.dtype)
