"""Grouped-query attention of the dense students, Llama 3 and Qwen2.5 (spec A.8.2)."""

from typing import Any

import jax
from flax import nnx

from r1jax.kernels.flash_attention import flash_attention
from r1jax.models.cache import Slots
from r1jax.models.config import ModelConfig
from r1jax.models.layers import param, project
from r1jax.models.rope import apply_rope
from r1jax.models.sequence_parallel import attend_over_sequence, ids_of, mask_options
from r1jax.sharding import TOKENS


class GQA(nnx.Module):
    """N query heads share J key/value heads; half-layout RoPE; optional q/k/v biases (Qwen2)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = c = config
        dim, heads, kv_heads, head = c.model_dim, c.num_heads, c.num_kv_heads, c.head_dim
        std = c.init_std
        self.w_q_DNH = param(rngs, (dim, heads, head), axes=("embed", "heads", None), std=std)
        self.w_k_DJH = param(rngs, (dim, kv_heads, head), axes=("embed", "kv_heads", None), std=std)
        self.w_v_DJH = param(rngs, (dim, kv_heads, head), axes=("embed", "kv_heads", None), std=std)
        self.w_o_NHD = param(rngs, (heads, head, dim), axes=("heads", None, "embed"), std=std)
        if c.qkv_bias:
            self.b_q_NH = param(rngs, (heads, head), axes=("heads", None), std=0.0)
            self.b_k_JH = param(rngs, (kv_heads, head), axes=("kv_heads", None), std=0.0)
            self.b_v_JH = param(rngs, (kv_heads, head), axes=("kv_heads", None), std=0.0)

    def __call__(
        self, x_BTD: jax.Array, *, angles, segments_BT, prefixes_BT=None, cache: Any = None, slots: Slots | None = None
    ):
        """(output [B, T, D], the layer's cache with these tokens in ``slots``).

        Where the slots are read, attention is over all of the cache; else among the given tokens alone.
        """
        q_BTNH = project(x_BTD, self.w_q_DNH)
        k_BTJH = project(x_BTD, self.w_k_DJH)
        v_BTJH = project(x_BTD, self.w_v_DJH)
        if self.config.qkv_bias:
            dtype = x_BTD.dtype
            q_BTNH = q_BTNH + self.b_q_NH[...].astype(dtype)
            k_BTJH = k_BTJH + self.b_k_JH[...].astype(dtype)
            v_BTJH = v_BTJH + self.b_v_JH[...].astype(dtype)
        q_BTNH = apply_rope(q_BTNH, *angles, interleaved=False)
        k_BTJH = apply_rope(k_BTJH, *angles, interleaved=False)
        if slots is not None:
            cache = slots.write(cache, {"k_BTJH": k_BTJH, "v_BTJH": v_BTJH})
        if slots is not None and slots.is_read:
            out_BTNH = slots.attend(cache, q_BTNH, scale=self.config.head_dim**-0.5)
        else:
            (of_queries, of_keys), per_key = ids_of(segments_BT, prefixes_BT), (*TOKENS, "kv_heads", None)
            queries = {"q": (q_BTNH, (*TOKENS, "heads", None))} | of_queries
            keys = {"k": (k_BTJH, per_key), "v": (v_BTJH, per_key)} | of_keys
            out_BTNH = attend_over_sequence(self._attend_to, queries, keys, {}, is_training=slots is None)
        return project(out_BTNH, self.w_o_NHD, num_contracted=2), cache

    def _attend_to(self, keys, _):
        def attend(queries, q_offset):
            options = {"scale": self.config.head_dim**-0.5, "implementation": self.config.attention_implementation}
            options |= mask_options(queries, keys)
            return flash_attention(queries["q"], keys["k"], keys["v"], q_offset=q_offset, **options)

        return attend
