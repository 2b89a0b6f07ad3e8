"""config.json of DeepSeek-V2/V3, Llama and Qwen2, to our ModelConfig and back (spec A.1, A.8).

RoPE scaling is read in both of transformers' spellings: `rope_theta` with `rope_scaling` (4.x and the released
checkpoints; `type` or `rope_type`), or all in `rope_parameters` (5.x). It is written in the former, which both read.
Where a file has both, transformers 5 reads `rope_scaling` alone and transformers 4 may read either: here they must agree.
"""

import math
from collections.abc import Mapping
from typing import Any

from r1jax.models.config import Llama3Rope, ModelConfig, Yarn

ARCHITECTURES = {
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}
_DEFAULT_LENGTH = 32_768  # written where the model says nothing
_NEEDED = object()
_DEFAULTS_DIFFER = (
    "n_group", "topk_group", "n_shared_experts", "first_k_dense_replace", "routed_scaling_factor", "norm_topk_prob",
)  # fmt: skip
"""What the code released with V3 and transformers take for different values where it is absent; here it may be null."""
_ROPE_KEYS = {
    "default": (),
    "yarn": (
        "factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
        "attention_factor", "truncate",
    ),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}  # fmt: skip
"""Kind of RoPE scaling -> what transformers reads of it."""


class _Reader:
    """Reads keys of one object and collects what is wrong with them."""

    def __init__(self, values: Mapping[str, Any], faults: list[str], prefix: str = ""):
        self.values, self.faults, self.prefix = values, faults, prefix

    def get(self, key: str, kind: type, default: Any = _NEEDED) -> Any:
        """The value of a key, which must be of `kind`; null counts as absent; a fault gives `kind()`."""
        value = self.values.get(key)
        if value is None:
            if default is _NEEDED:
                self.faults.append(f"config.json: {self.prefix}{key} is missing")
                return kind()
            return default
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            self.faults.append(f"config.json: {self.prefix}{key}={value!r} must be of type {kind.__name__}")
            return kind()
        return value

    def only(self, key: str, *known: Any) -> None:
        """A fault unless the key is absent, null or one of `known`."""
        value = self.values.get(key)
        if value is not None and value not in known:
            text = " or ".join(map(repr, known)) or "none"
            self.faults.append(f"config.json: {self.prefix}{key}={value!r} is not supported; known: {text}")


def read_config(raw: Mapping[str, Any]) -> tuple[ModelConfig | None, list[str]]:
    """(config, faults) of a parsed config.json: a line for each key that is missing, wrong or not supported.

    With faults the config is None. `dtype` and `remat` are not in the file; the caller sets them.
    """
    family = raw.get("model_type")
    if not isinstance(family, str) or family not in ARCHITECTURES:
        return None, [f"config.json: model_type={family!r} is not supported; known: {', '.join(ARCHITECTURES)}"]
    faults: list[str] = []
    reader = _Reader(raw, faults)
    fields = _common(reader) | (_mla(reader, family) if family.startswith("deepseek") else _gqa(reader, family))
    fields |= _rope(reader)
    if faults:
        return None, list(dict.fromkeys(faults))
    try:
        return ModelConfig(**fields), []
    except ValueError as error:
        return None, [f"config.json: {error}"]


def _common(r: _Reader) -> dict[str, Any]:
    r.only("hidden_act", "silu")
    for key in ("attention_bias", "mlp_bias"):
        r.only(key, False)
    r.only("attention_dropout", 0, 0.0)
    r.only("is_causal", True)  # False: transformers lets a token see the later ones
    r.only("per_layer_config")
    return {
        "vocab_size": r.get("vocab_size", int),
        "num_layers": r.get("num_hidden_layers", int),
        "model_dim": r.get("hidden_size", int),
        "ffn_dim": r.get("intermediate_size", int),
        "num_heads": r.get("num_attention_heads", int),
        "tie_embeddings": r.get("tie_word_embeddings", bool, False),
        "max_length": r.get("max_position_embeddings", int),
        "rms_eps": r.get("rms_norm_eps", float, 1e-6),
        "init_std": r.get("initializer_range", float, 0.02),
    }


def _gqa(r: _Reader, family: str) -> dict[str, Any]:
    num_layers, num_heads = r.get("num_hidden_layers", int), r.get("num_attention_heads", int)
    windowed = r.values.get("use_sliding_window", False) and r.get("max_window_layers", int, 0) < num_layers
    if windowed:
        r.faults.append("config.json: use_sliding_window=True is not supported: attention here sees all earlier tokens")
    if any(kind != "full_attention" for kind in r.get("layer_types", list, [])) and not windowed:
        r.faults.append(
            f"config.json: layer_types={r.values['layer_types']!r:.80} is not supported; known: 'full_attention'"
        )
    return {
        "attention": "gqa",
        "num_kv_heads": r.get("num_key_value_heads", int, num_heads),
        "head_dim": r.get("head_dim", int, r.get("hidden_size", int) // max(num_heads, 1)),
        "qkv_bias": family == "qwen2",
    }


def _mla(r: _Reader, family: str) -> dict[str, Any]:
    is_v3 = family == "deepseek_v3"
    for key in _DEFAULTS_DIFFER:
        if is_v3 and key not in r.values:
            r.faults.append(f"config.json: {key} is missing")
    r.only("moe_layer_freq", 1)
    r.only("rope_interleave", True)
    r.only("num_key_value_heads", r.values.get("num_attention_heads"))
    r.only("scoring_func", "sigmoid" if is_v3 else "softmax")
    r.only("topk_method", *(("noaux_tc",) if is_v3 else ("greedy", "group_limited_greedy")))
    if not is_v3:
        r.only("norm_topk_prob", False)  # its released code then leaves out routed_scaling_factor
    grouped = is_v3 or r.values.get("topk_method") == "group_limited_greedy"
    return {
        "attention": "mla",
        "q_lora_rank": r.get("q_lora_rank", int, 0),
        "kv_lora_rank": r.get("kv_lora_rank", int),
        "nope_head_dim": r.get("qk_nope_head_dim", int),
        "rope_head_dim": r.get("qk_rope_head_dim", int),
        "value_head_dim": r.get("v_head_dim", int),
        "num_experts": r.get("n_routed_experts", int),
        "num_experts_per_token": r.get("num_experts_per_tok", int),
        "num_shared_experts": r.get("n_shared_experts", int, 0),
        "expert_ffn_dim": r.get("moe_intermediate_size", int),
        "num_dense_layers": r.get("first_k_dense_replace", int, 0),
        "num_groups": r.get("n_group", int, 1) if grouped else 1,
        "num_groups_per_token": r.get("topk_group", int, 1) if grouped else 1,
        "routed_scaling": r.get("routed_scaling_factor", float, 1.0),
        "score_function": "sigmoid" if is_v3 else "softmax",
        "normalize_weights": r.get("norm_topk_prob", bool, True) if is_v3 else False,
        "router_bias": is_v3,
        "num_mtp_layers": r.get("num_nextn_predict_layers", int, r.get("num_mtp_layers", int, 0)) if is_v3 else 0,
    }


def _rope(r: _Reader) -> dict[str, Any]:
    """The fields that `rope_scaling` or `rope_parameters` give; a fault where both are there and differ."""
    r.only("partial_rotary_factor", 1, 1.0)
    keys = [key for key in ("rope_scaling", "rope_parameters") if r.values.get(key)]
    first, *others = [_rope_of(r, key) for key in keys or ["rope_scaling"]]
    for other in others:
        r.faults += [
            f"config.json: rope_scaling and rope_parameters differ, in {name}: {first.get(name)} and {other.get(name)}; "
            "remove the wrong one"
            for name in sorted({*first, *other})
            if first.get(name) != other.get(name)
        ]
    return first


def _rope_of(r: _Reader, key: str) -> dict[str, Any]:
    rope = _Reader(r.get(key, dict, {}), r.faults, f"{key}.")
    fields: dict[str, Any] = {"rope_theta": rope.get("rope_theta", float, r.get("rope_theta", float, 10_000.0))}
    rope.only("partial_rotary_factor", 1, 1.0)
    kind = rope.values.get("rope_type") or rope.values.get("type") or "default"
    if not isinstance(kind, str) or kind not in _ROPE_KEYS:
        r.faults.append(f"config.json: {key}.rope_type={kind!r} is not supported; known: {', '.join(_ROPE_KEYS)}")
        return fields
    if rope.values.get("type"):
        rope.only("type", kind)
    for name in sorted(
        {*rope.values} - {"rope_type", "type", "rope_theta", "partial_rotary_factor", *_ROPE_KEYS[kind]}
    ):
        if rope.values[name] is not None:
            r.faults.append(f"config.json: {key}.{name}={rope.values[name]!r} says nothing where rope_type is {kind!r}")
    length = r.get("max_position_embeddings", int)
    if kind == "yarn":
        rope.only("attention_factor")
        rope.only("truncate", True)
        if bool(rope.values.get("mscale")) != bool(rope.values.get("mscale_all_dim")):
            r.faults.append(f"config.json: {key} has one of mscale and mscale_all_dim: it must have both or neither")
        fields["yarn"] = Yarn(
            factor=rope.get("factor", float),
            original_length=rope.get("original_max_position_embeddings", int, length),
            beta_fast=rope.get("beta_fast", float, 32.0),
            beta_slow=rope.get("beta_slow", float, 1.0),
            mscale=rope.get("mscale", float, 1.0) or 1.0,
            mscale_all_dim=rope.get("mscale_all_dim", float, 0.0),
        )
    if kind == "llama3":
        fields["llama3_rope"] = Llama3Rope(
            factor=rope.get("factor", float),
            low_freq_factor=rope.get("low_freq_factor", float),
            high_freq_factor=rope.get("high_freq_factor", float),
            original_length=rope.get("original_max_position_embeddings", int),
        )
    if kind != "default":  # read by no version of transformers at the top
        r.only("original_max_position_embeddings", rope.values.get("original_max_position_embeddings", length))
    return fields


def family_of(config: ModelConfig) -> str:
    """The model_type that a config belongs to. ValueError: the combination is in no Hugging Face family."""
    c = config
    if c.attention == "gqa" and not (c.num_experts or c.num_mtp_layers):
        return "qwen2" if c.qkv_bias else "llama"
    if c.attention == "mla" and c.num_experts:
        if c.score_function == "sigmoid" and c.router_bias:
            return "deepseek_v3"
        if c.score_function == "softmax" and not (c.router_bias or c.normalize_weights or c.num_mtp_layers):
            return "deepseek_v2"
    raise ValueError(
        f"no Hugging Face family has attention={c.attention!r} with num_experts={c.num_experts}, score_function="
        f"{c.score_function!r}, router_bias={c.router_bias}, normalize_weights={c.normalize_weights}, "
        f"num_mtp_layers={c.num_mtp_layers}; known: {', '.join(ARCHITECTURES)}"
    )


def write_config(config: ModelConfig, *, dtype: str) -> dict[str, Any]:
    """config.json of a model, with what transformers, vLLM and SGLang read; `dtype` is that of the weights on disk."""
    c, family = config, family_of(config)
    raw: dict[str, Any] = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": c.vocab_size,
        "num_hidden_layers": c.num_layers,
        "hidden_size": c.model_dim,
        "intermediate_size": c.ffn_dim,
        "num_attention_heads": c.num_heads,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "tie_word_embeddings": c.tie_embeddings,
        "max_position_embeddings": c.max_length or _DEFAULT_LENGTH,
        "rms_norm_eps": c.rms_eps,
        "initializer_range": c.init_std,
        "use_cache": True,
        "torch_dtype": dtype,
        "rope_theta": c.rope_theta,
        "rope_scaling": _write_rope(c),
    }
    if c.attention == "gqa":
        raw["num_key_value_heads"] = c.num_kv_heads
        if family == "llama" or c.head_dim * c.num_heads != c.model_dim:
            raw["head_dim"] = c.head_dim
        only = {"attention_bias": False, "mlp_bias": False} if family == "llama" else {"use_sliding_window": False}
        return raw | only
    raw |= {
        "attention_bias": False,
        "num_key_value_heads": c.num_heads,
        "q_lora_rank": c.q_lora_rank or None,
        "kv_lora_rank": c.kv_lora_rank,
        "qk_nope_head_dim": c.nope_head_dim,
        "qk_rope_head_dim": c.rope_head_dim,
        "v_head_dim": c.value_head_dim,
        "n_routed_experts": c.num_experts,
        "num_experts_per_tok": c.num_experts_per_token,
        "n_shared_experts": c.num_shared_experts,
        "moe_intermediate_size": c.expert_ffn_dim,
        "moe_layer_freq": 1,
        "first_k_dense_replace": c.num_dense_layers,
        "n_group": c.num_groups,
        "topk_group": c.num_groups_per_token,
        "routed_scaling_factor": c.routed_scaling,
        "scoring_func": c.score_function,
        "norm_topk_prob": c.normalize_weights,
        "ep_size": 1,
    }
    if family == "deepseek_v2":
        return raw | {"topk_method": "group_limited_greedy" if c.num_groups > 1 else "greedy"}
    return raw | {"topk_method": "noaux_tc", "num_nextn_predict_layers": c.num_mtp_layers}


def _write_rope(c: ModelConfig) -> dict[str, Any] | None:
    if c.llama3_rope:
        rope = c.llama3_rope
        return {
            "rope_type": "llama3",
            "factor": rope.factor,
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_length,
        }
    if not c.yarn:
        return None
    yarn = c.yarn
    scales = {"mscale": yarn.mscale, "mscale_all_dim": yarn.mscale_all_dim}
    if not yarn.mscale_all_dim and not math.isclose(yarn.mscale, 1.0):
        raise ValueError(f"yarn mscale={yarn.mscale} with mscale_all_dim=0 cannot be said in config.json")
    return {
        "type": "yarn",
        "rope_type": "yarn",
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.original_length,
        "beta_fast": yarn.beta_fast,
        "beta_slow": yarn.beta_slow,
        **(scales if yarn.mscale_all_dim else {}),
    }
