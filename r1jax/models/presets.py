"""Named models: the eight of DeepSeek-R1 and their bases, DeepSeek-V2, and mini sizes of every family (spec A.1,
A.8.2).

Big models compute in bfloat16 and recompute layers in the backward pass; the mini ones, which train on two cores, do
neither.

Differences between a base and its R1 student are those of the released configs: the 1.5B student has a head of its own,
and the two Math students a longer nominal context. DeepSeek-V2's YaRN scales are those of the Hugging Face config,
0.707 (spec G.28).
"""

import difflib
from typing import Any

from r1jax.models.config import Llama3Rope, ModelConfig, Yarn

_CONTEXT = 131_072
_BIG = {"dtype": "bfloat16", "remat": "full", "init_std": 0.02}

PRESETS: dict[str, dict[str, Any]] = {}
"""Name -> fields of ``ModelConfig``, with the released size of the vocabulary."""


def make_preset(name: str, vocab_size: int | None = None) -> ModelConfig:
    """The config of a preset, with another vocabulary where one is given. ValueError: no such preset, with near names."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=3)
        hint = f"near it: {', '.join(near)}" if near else f"there are {', '.join(sorted(PRESETS))}"
        raise ValueError(f"there is no model preset {name!r}; {hint}")
    changed: dict[str, Any] = {} if vocab_size is None else {"vocab_size": vocab_size}
    return ModelConfig(**PRESETS[name] | changed)


# 671B parameters, 37B active, and one MTP layer (V3 Sec. 4.2).
PRESETS["deepseek_v3"] = {
    "vocab_size": 129_280, "num_layers": 61, "model_dim": 7168, "ffn_dim": 18_432, "num_heads": 128, "attention": "mla",
    "q_lora_rank": 1536, "kv_lora_rank": 512, "nope_head_dim": 128, "rope_head_dim": 64, "value_head_dim": 128,
    "num_experts": 256, "num_experts_per_token": 8, "num_shared_experts": 1, "expert_ffn_dim": 2048,
    "num_dense_layers": 3, "num_groups": 8, "num_groups_per_token": 4, "routed_scaling": 2.5, "num_mtp_layers": 1,
    "yarn": Yarn(factor=40.0, original_length=4096), "max_length": 163_840, **_BIG, "init_std": 0.006,
}  # fmt: skip
PRESETS["deepseek_r1"] = PRESETS["deepseek_r1_zero"] = PRESETS["deepseek_v3"]

# 236B parameters, 21B active (spec A.1.2).
PRESETS["deepseek_v2"] = PRESETS["deepseek_v3"] | {
    "vocab_size": 102_400, "num_layers": 60, "model_dim": 5120, "ffn_dim": 12_288,
    "num_experts": 160, "num_experts_per_token": 6, "num_shared_experts": 2, "expert_ffn_dim": 1536,
    "num_dense_layers": 1, "num_groups_per_token": 3, "routed_scaling": 16.0, "num_mtp_layers": 0,
    "score_function": "softmax", "normalize_weights": False, "router_bias": False,
    "yarn": Yarn(factor=40.0, original_length=4096, mscale=0.707, mscale_all_dim=0.707),
}  # fmt: skip

# 15.7B parameters, 2.7B active; no low-rank queries, no expert groups (spec A.1.2).
PRESETS["deepseek_v2_lite"] = PRESETS["deepseek_v2"] | {
    "num_layers": 27, "model_dim": 2048, "ffn_dim": 10_944, "num_heads": 16, "q_lora_rank": 0,
    "num_experts": 64, "expert_ffn_dim": 1408, "num_groups": 1, "num_groups_per_token": 1, "routed_scaling": 1.0,
}  # fmt: skip

PRESETS["qwen2_5_math_1_5b"] = {
    "vocab_size": 151_936, "num_layers": 28, "model_dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_kv_heads": 2,
    "head_dim": 128, "qkv_bias": True, "tie_embeddings": True, "max_length": 4096, **_BIG,
}  # fmt: skip
PRESETS["r1_distill_qwen_1_5b"] = PRESETS["qwen2_5_math_1_5b"] | {"tie_embeddings": False, "max_length": _CONTEXT}

PRESETS["qwen2_5_math_7b"] = {
    "vocab_size": 152_064, "num_layers": 28, "model_dim": 3584, "ffn_dim": 18_944, "num_heads": 28, "num_kv_heads": 4,
    "head_dim": 128, "qkv_bias": True, "max_length": 4096, **_BIG,
}  # fmt: skip
PRESETS["r1_distill_qwen_7b"] = PRESETS["qwen2_5_math_7b"] | {"max_length": _CONTEXT}

PRESETS["qwen2_5_14b"] = {
    "vocab_size": 152_064, "num_layers": 48, "model_dim": 5120, "ffn_dim": 13_824, "num_heads": 40, "num_kv_heads": 8,
    "head_dim": 128, "qkv_bias": True, "rope_theta": 1e6, "rms_eps": 1e-5, "max_length": _CONTEXT, **_BIG,
}  # fmt: skip
PRESETS["r1_distill_qwen_14b"] = PRESETS["qwen2_5_14b"]

# Also R1-Zero's "Qwen2.5-32B-Zero".
PRESETS["qwen2_5_32b"] = PRESETS["qwen2_5_14b"] | {"num_layers": 64, "ffn_dim": 27_648}
PRESETS["r1_distill_qwen_32b"] = PRESETS["qwen2_5_32b"]

PRESETS["llama3_1_8b"] = {
    "vocab_size": 128_256, "num_layers": 32, "model_dim": 4096, "ffn_dim": 14_336, "num_heads": 32, "num_kv_heads": 8,
    "head_dim": 128, "rope_theta": 500_000.0, "rms_eps": 1e-5, "max_length": _CONTEXT,
    "llama3_rope": Llama3Rope(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=8192), **_BIG,
}  # fmt: skip
PRESETS["r1_distill_llama_8b"] = PRESETS["llama3_1_8b"]

# Llama-3.3-70B-Instruct.
PRESETS["llama3_3_70b"] = PRESETS["llama3_1_8b"] | {
    "num_layers": 80, "model_dim": 8192, "ffn_dim": 28_672, "num_heads": 64,
}  # fmt: skip
PRESETS["r1_distill_llama_70b"] = PRESETS["llama3_3_70b"]

# A small Llama with public weights; sizes as in its GGUF file (``r1jax.hf.gguf``).
PRESETS["smollm2_135m"] = {
    "vocab_size": 49_152, "num_layers": 30, "model_dim": 576, "ffn_dim": 1536, "num_heads": 9, "num_kv_heads": 3,
    "head_dim": 64, "tie_embeddings": True, "rope_theta": 100_000.0, "rms_eps": 1e-5, "max_length": 8192,
    "init_std": 1 / 24,
}  # fmt: skip

# A DeepSeek-V3 of a few million parameters, with every part of the big one but MTP and YaRN, for two cores.
PRESETS["mini_v3"] = {
    "vocab_size": 512, "num_layers": 4, "model_dim": 128, "ffn_dim": 384, "num_heads": 4, "attention": "mla",
    "q_lora_rank": 64, "kv_lora_rank": 48, "nope_head_dim": 32, "rope_head_dim": 16, "value_head_dim": 32,
    "num_experts": 16, "num_experts_per_token": 2, "num_shared_experts": 1, "expert_ffn_dim": 128,
    "num_dense_layers": 1, "num_groups": 4, "num_groups_per_token": 2, "init_std": 0.02,
}  # fmt: skip

# ``mini_v3`` with V2-Lite's dense queries and softmax router, two shared experts, no groups and no bias.
PRESETS["mini_v2"] = PRESETS["mini_v3"] | {
    "q_lora_rank": 0, "num_shared_experts": 2, "num_groups": 1, "num_groups_per_token": 1,
    "score_function": "softmax", "normalize_weights": False, "router_bias": False,
}  # fmt: skip

# A Qwen2.5 and a Llama 3 of about a million parameters.
PRESETS["mini_qwen"] = {
    "vocab_size": 512, "num_layers": 4, "model_dim": 128, "ffn_dim": 384, "num_heads": 4, "num_kv_heads": 2,
    "head_dim": 32, "qkv_bias": True, "tie_embeddings": True, "init_std": 0.02,
}  # fmt: skip
PRESETS["mini_llama"] = PRESETS["mini_qwen"] | {
    "qkv_bias": False, "tie_embeddings": False, "rope_theta": 500_000.0, "rms_eps": 1e-5,
    "llama3_rope": Llama3Rope(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=256),
}  # fmt: skip
