"""Named models: the eight of DeepSeek-R1 and their bases, DeepSeek-V2, and mini sizes of every family (spec A.1, A.8.2).

``PRESETS`` maps a name to a function of the vocabulary size, whose default is the released one. Big models compute in
bfloat16 and recompute layers in the backward pass; the mini ones, which train on two cores, do neither.

Differences between a base and its R1 student are those of the released configs: the 1.5B student has a head of its own, and the
two Math students a longer nominal context. DeepSeek-V2's YaRN scales are those of the Hugging Face config, 0.707 (spec G.28).
"""

import dataclasses
import difflib
from collections.abc import Callable

from r1jax.models.config import Llama3Rope, ModelConfig, Yarn

_CONTEXT = 131_072
_BIG = {"dtype": "bfloat16", "remat": "full", "init_std": 0.02}


def make_preset(name: str, vocab_size: int | None = None) -> ModelConfig:
    """The config of a preset, with another vocabulary where one is given. ValueError: no such preset, with near names."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=3)
        hint = f"near it: {', '.join(near)}" if near else f"there are {', '.join(sorted(PRESETS))}"
        raise ValueError(f"there is no model preset {name!r}; {hint}")
    return PRESETS[name]() if vocab_size is None else PRESETS[name](vocab_size)


def deepseek_v3(vocab_size: int = 129_280) -> ModelConfig:
    """DeepSeek-V3-Base, R1-Zero and R1: 671B parameters, 37B active, and one MTP layer (V3 Sec. 4.2)."""
    return ModelConfig(
        vocab_size=vocab_size, num_layers=61, model_dim=7168, ffn_dim=18_432, num_heads=128, attention="mla",
        q_lora_rank=1536, kv_lora_rank=512, nope_head_dim=128, rope_head_dim=64, value_head_dim=128,
        num_experts=256, num_experts_per_token=8, num_shared_experts=1, expert_ffn_dim=2048, num_dense_layers=3,
        num_groups=8, num_groups_per_token=4, routed_scaling=2.5, num_mtp_layers=1,
        yarn=Yarn(factor=40.0, original_length=4096), max_length=163_840,
        dtype="bfloat16", remat="full", init_std=0.006,
    )  # fmt: skip


def deepseek_v2(vocab_size: int = 102_400) -> ModelConfig:
    """DeepSeek-V2: 236B parameters, 21B active (spec A.1.2)."""
    return ModelConfig(
        vocab_size=vocab_size, num_layers=60, model_dim=5120, ffn_dim=12_288, num_heads=128, attention="mla",
        q_lora_rank=1536, kv_lora_rank=512, nope_head_dim=128, rope_head_dim=64, value_head_dim=128,
        num_experts=160, num_experts_per_token=6, num_shared_experts=2, expert_ffn_dim=1536, num_dense_layers=1,
        num_groups=8, num_groups_per_token=3, routed_scaling=16.0,
        score_function="softmax", normalize_weights=False, router_bias=False,
        yarn=Yarn(factor=40.0, original_length=4096, mscale=0.707, mscale_all_dim=0.707), max_length=163_840,
        dtype="bfloat16", remat="full", init_std=0.006,
    )  # fmt: skip


def deepseek_v2_lite(vocab_size: int = 102_400) -> ModelConfig:
    """DeepSeek-V2-Lite: 15.7B parameters, 2.7B active; no low-rank queries, no expert groups (spec A.1.2)."""
    return dataclasses.replace(
        deepseek_v2(vocab_size), num_layers=27, model_dim=2048, ffn_dim=10_944, num_heads=16, q_lora_rank=0,
        num_experts=64, expert_ffn_dim=1408, num_groups=1, num_groups_per_token=1, routed_scaling=1.0,
    )  # fmt: skip


def qwen2_5_math_1_5b(vocab_size: int = 151_936) -> ModelConfig:
    """Qwen2.5-Math-1.5B."""
    return ModelConfig(
        vocab_size=vocab_size, num_layers=28, model_dim=1536, ffn_dim=8960, num_heads=12, num_kv_heads=2, head_dim=128,
        qkv_bias=True, tie_embeddings=True, max_length=4096, **_BIG,
    )  # fmt: skip


def qwen2_5_math_7b(vocab_size: int = 152_064) -> ModelConfig:
    """Qwen2.5-Math-7B."""
    return ModelConfig(
        vocab_size=vocab_size, num_layers=28, model_dim=3584, ffn_dim=18_944, num_heads=28, num_kv_heads=4,
        head_dim=128, qkv_bias=True, max_length=4096, **_BIG,
    )  # fmt: skip


def qwen2_5_14b(vocab_size: int = 152_064) -> ModelConfig:
    """Qwen2.5-14B, and the 14B student."""
    return ModelConfig(
        vocab_size=vocab_size, num_layers=48, model_dim=5120, ffn_dim=13_824, num_heads=40, num_kv_heads=8,
        head_dim=128, qkv_bias=True, rope_theta=1e6, rms_eps=1e-5, max_length=_CONTEXT, **_BIG,
    )  # fmt: skip


def qwen2_5_32b(vocab_size: int = 152_064) -> ModelConfig:
    """Qwen2.5-32B, its R1-Zero ("Qwen2.5-32B-Zero") and the 32B student."""
    return dataclasses.replace(qwen2_5_14b(vocab_size), num_layers=64, ffn_dim=27_648)


def llama3_1_8b(vocab_size: int = 128_256) -> ModelConfig:
    """Llama-3.1-8B, and the 8B student."""
    return ModelConfig(
        vocab_size=vocab_size, num_layers=32, model_dim=4096, ffn_dim=14_336, num_heads=32, num_kv_heads=8,
        head_dim=128, rope_theta=500_000.0, rms_eps=1e-5, max_length=_CONTEXT,
        llama3_rope=Llama3Rope(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=8192), **_BIG,
    )  # fmt: skip


def llama3_3_70b(vocab_size: int = 128_256) -> ModelConfig:
    """Llama-3.3-70B-Instruct, and the 70B student."""
    return dataclasses.replace(
        llama3_1_8b(vocab_size), num_layers=80, model_dim=8192, ffn_dim=28_672, num_heads=64
    )  # fmt: skip


def r1_distill_qwen_1_5b(vocab_size: int = 151_936) -> ModelConfig:
    """DeepSeek-R1-Distill-Qwen-1.5B: the base with an untied head."""
    return dataclasses.replace(qwen2_5_math_1_5b(vocab_size), tie_embeddings=False, max_length=_CONTEXT)


def r1_distill_qwen_7b(vocab_size: int = 152_064) -> ModelConfig:
    """DeepSeek-R1-Distill-Qwen-7B."""
    return dataclasses.replace(qwen2_5_math_7b(vocab_size), max_length=_CONTEXT)


def smollm2_135m(vocab_size: int = 49_152) -> ModelConfig:
    """SmolLM2-135M: a small Llama with public weights; sizes as in its GGUF file (``r1jax.hf.gguf``)."""
    return ModelConfig(
        vocab_size=vocab_size, num_layers=30, model_dim=576, ffn_dim=1536, num_heads=9, num_kv_heads=3, head_dim=64,
        tie_embeddings=True, rope_theta=100_000.0, rms_eps=1e-5, max_length=8192, init_std=1 / 24,
    )  # fmt: skip


def mini_v3(vocab_size: int = 512) -> ModelConfig:
    """A DeepSeek-V3 of a few million parameters, with every part of the big one but MTP and YaRN, for two cores."""
    return ModelConfig(
        vocab_size=vocab_size, num_layers=4, model_dim=128, ffn_dim=384, num_heads=4, attention="mla",
        q_lora_rank=64, kv_lora_rank=48, nope_head_dim=32, rope_head_dim=16, value_head_dim=32,
        num_experts=16, num_experts_per_token=2, num_shared_experts=1, expert_ffn_dim=128, num_dense_layers=1,
        num_groups=4, num_groups_per_token=2, routed_scaling=1.0, init_std=0.02,
    )  # fmt: skip


def mini_v2(vocab_size: int = 512) -> ModelConfig:
    """``mini_v3`` with V2-Lite's dense queries and softmax router, two shared experts, no groups and no bias."""
    return dataclasses.replace(
        mini_v3(vocab_size), q_lora_rank=0, num_shared_experts=2, num_groups=1, num_groups_per_token=1,
        score_function="softmax", normalize_weights=False, router_bias=False,
    )  # fmt: skip


def mini_qwen(vocab_size: int = 512) -> ModelConfig:
    """A Qwen2.5 of about a million parameters."""
    return ModelConfig(
        vocab_size=vocab_size, num_layers=4, model_dim=128, ffn_dim=384, num_heads=4, num_kv_heads=2, head_dim=32,
        qkv_bias=True, tie_embeddings=True, init_std=0.02,
    )  # fmt: skip


def mini_llama(vocab_size: int = 512) -> ModelConfig:
    """A Llama 3 of about a million parameters."""
    return dataclasses.replace(
        mini_qwen(vocab_size), qkv_bias=False, tie_embeddings=False, rope_theta=500_000.0, rms_eps=1e-5,
        llama3_rope=Llama3Rope(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=256),
    )  # fmt: skip


PRESETS: dict[str, Callable[..., ModelConfig]] = {
    function.__name__: function
    for function in (
        deepseek_v3, deepseek_v2, deepseek_v2_lite, qwen2_5_math_1_5b, qwen2_5_math_7b, qwen2_5_14b, qwen2_5_32b,
        llama3_1_8b, llama3_3_70b, r1_distill_qwen_1_5b, r1_distill_qwen_7b, smollm2_135m,
        mini_v3, mini_v2, mini_qwen, mini_llama,
    )
}  # fmt: skip
PRESETS |= {
    "deepseek_r1": deepseek_v3,
    "deepseek_r1_zero": deepseek_v3,
    "r1_distill_qwen_14b": qwen2_5_14b,
    "r1_distill_qwen_32b": qwen2_5_32b,
    "r1_distill_llama_8b": llama3_1_8b,
    "r1_distill_llama_70b": llama3_3_70b,
}
