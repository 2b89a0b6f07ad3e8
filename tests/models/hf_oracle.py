"""Tiny models of transformers' own classes with random weights, and the same weights in our trees."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from r1jax.hf.names import hf_places
from r1jax.models.config import Llama3Rope, ModelConfig, Yarn
from r1jax.models.transformer import make_model
from tests.tiny import V3 as TINY_V3

VOCAB, DIM = 48, 32

_DENSE = {"vocab_size": VOCAB, "num_layers": 2, "model_dim": DIM, "ffn_dim": 48, "num_heads": 4, "init_std": 0.2}

V3 = dataclasses.replace(
    TINY_V3, yarn=Yarn(4.0, 8, beta_fast=2.0, beta_slow=0.2, mscale_all_dim=0.8), num_mtp_layers=1, rms_eps=1e-3
)
"""YaRN whose cos and sin are scaled too, four groups of which two are kept, an MTP layer, an eps that is not the latents'."""
V3_ODD = dataclasses.replace(
    TINY_V3, yarn=None, q_lora_rank=0, num_experts=6, num_groups=3, num_groups_per_token=1, num_experts_per_token=1,
    num_shared_experts=0, num_dense_layers=0, num_layers=2, num_heads=1, tie_embeddings=True,
)  # fmt: skip
"""No YaRN, dense queries, one head, three groups, top-1, no shared expert, no dense layer, tied."""
V2 = dataclasses.replace(
    TINY_V3, num_layers=2, num_experts=6, num_groups=3, num_groups_per_token=2, num_shared_experts=2, routed_scaling=16.0,
    score_function="softmax", normalize_weights=False, router_bias=False, q_lora_rank=0,
    yarn=Yarn(4.0, 8, beta_fast=2.0, beta_slow=0.2, mscale=0.707, mscale_all_dim=0.707),
)  # fmt: skip
"""Group-limited softmax router, two shared experts, dense queries."""
QWEN = ModelConfig(**_DENSE, num_kv_heads=2, head_dim=8, qkv_bias=True, tie_embeddings=True)
LLAMA = ModelConfig(
    **_DENSE, num_kv_heads=1, head_dim=8, rope_theta=500.0, rms_eps=1e-5, llama3_rope=Llama3Rope(8.0, 1.0, 4.0, 32)
)
"""One key/value head, untied, frequencies on both sides of Llama 3's ramp and on it."""
CONFIGS = {"v3": V3, "v3 odd": V3_ODD, "v2": V2, "qwen": QWEN, "llama": LLAMA}


def torch_config(config: ModelConfig):
    """transformers' config of ``config``. Skips the test without transformers."""
    transformers = pytest.importorskip("transformers")
    c, rope = config, config.yarn or config.llama3_rope
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": c.rope_theta}
    if rope:
        names = {"original_length": "original_max_position_embeddings"}
        parameters |= {names.get(k, k): v for k, v in dataclasses.asdict(rope).items()}
        parameters["rope_type"] = "yarn" if c.yarn else "llama3"
    fields = {
        "vocab_size": c.vocab_size, "hidden_size": c.model_dim, "intermediate_size": c.ffn_dim,
        "num_hidden_layers": c.num_layers, "num_attention_heads": c.num_heads, "rms_norm_eps": c.rms_eps,
        "tie_word_embeddings": c.tie_embeddings, "max_position_embeddings": c.max_length or 64,
        "rope_parameters": parameters, "attn_implementation": "eager",
    }  # fmt: skip
    if c.attention == "gqa":
        fields |= {"num_key_value_heads": c.num_kv_heads} | ({} if c.qkv_bias else {"head_dim": c.head_dim})
        return (transformers.Qwen2Config if c.qkv_bias else transformers.LlamaConfig)(**fields)
    fields |= {
        "q_lora_rank": c.q_lora_rank or None, "kv_lora_rank": c.kv_lora_rank, "qk_nope_head_dim": c.nope_head_dim,
        "qk_rope_head_dim": c.rope_head_dim, "v_head_dim": c.value_head_dim, "num_key_value_heads": c.num_heads,
        "n_routed_experts": c.num_experts, "num_experts_per_tok": c.num_experts_per_token,
        "n_shared_experts": c.num_shared_experts, "moe_intermediate_size": c.expert_ffn_dim,
        "first_k_dense_replace": c.num_dense_layers, "n_group": c.num_groups, "topk_group": c.num_groups_per_token,
        "routed_scaling_factor": c.routed_scaling,
    }  # fmt: skip
    if c.score_function == "softmax":
        method = "group_limited_greedy" if c.num_groups > 1 else "greedy"
        return transformers.DeepseekV2Config(**fields, topk_method=method)
    return transformers.DeepseekV3Config(
        **fields, norm_topk_prob=c.normalize_weights, num_nextn_predict_layers=c.num_mtp_layers
    )


def torch_model(config: ModelConfig):
    """transformers' model of ``config``, float32, random; no norm scale is 1, no bias 0."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(torch_config(config), attn_implementation="eager").eval()
    randomize(torch, model, std=config.init_std)
    return model


def torch_rotary(config: ModelConfig):
    """transformers' cos and sin of ``config``, without a model."""
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3RotaryEmbedding
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    kind = DeepseekV3RotaryEmbedding if config.attention == "mla" else LlamaRotaryEmbedding
    return kind(torch_config(config))


def randomize(torch, model, *, std: float) -> None:
    """Weights N(0, std), norm scales near 1, small biases; the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            noise = torch.randn(tensor.shape, generator=generator)
            if "norm" in name:
                tensor.copy_(1 + 0.1 * noise)
            elif name.endswith("bias"):
                tensor.copy_(0.1 * noise)
            elif "inv_freq" not in name:
                tensor.copy_(std * noise)


def trees_of(tensors: dict[str, np.ndarray], config: ModelConfig):
    """(params, buffers) of tensors by their names in memory, where a layer's experts are one array."""
    for name in [name for name in tensors if name.endswith("experts.gate_up_proj")]:
        stem = name.removesuffix("gate_up_proj")
        gates, ups = np.split(tensors.pop(name), 2, axis=1)
        for part, arrays in {"gate": gates, "up": ups, "down": tensors.pop(stem + "down_proj")}.items():
            tensors |= {f"{stem}{e}.{part}_proj.weight": array for e, array in enumerate(arrays)}
    trees = dict(zip(("params", "buffers"), _empty(make_model(config).abstract()), strict=True))
    for name, place in hf_places(config).items():
        if not place.is_copy:
            leaf = trees
            for key in place.path:
                leaf = leaf[key]
            leaf[place.index] = place.to_ours(tensors[name])
    return trees["params"], trees["buffers"]


def _empty(tree):
    if isinstance(tree, tuple):
        return tuple(map(_empty, tree))
    return (
        {k: _empty(v) for k, v in tree.items()} if isinstance(tree, dict) else np.full(tree.shape, np.nan, np.float32)
    )


def state_of(model) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def grads_of(model) -> dict[str, np.ndarray]:
    return {name: tensor.grad.numpy() for name, tensor in model.named_parameters()}


def mtp_model(model):
    """transformers' MTP layers of ``model``, with random weights, and their tensors by the checkpoint's names."""
    import torch
    from transformers.modeling_layers import MtpModel

    mtp = MtpModel(model, model.config.num_mtp_layers).eval()
    shared = {id(p) for p in model.parameters()}
    own = torch.nn.Module()
    own.layers = mtp.layers
    assert not shared & {id(p) for p in own.parameters()}
    randomize(torch, own, std=0.2)
    tensors = {}
    for name, array in state_of(own).items():
        _, depth, rest = name.split(".", 2)
        rest = rest.removeprefix("mtp_block.").replace("post_norm", "shared_head.norm")
        tensors[f"model.layers.{model.config.num_hidden_layers + int(depth)}.{rest}"] = array
    return mtp, tensors
