"""config.json of DeepSeek-V2/V3, Llama and Qwen2, to our ModelConfig and back (spec A.1, A.8).

RoPE scaling is read in both of transformers' spellings: `rope_theta` with `rope_scaling` (4.x and the released
checkpoints; `type` or `rope_type`), or all in `rope_parameters` (5.x). It is written in the former, which both read.
Where a file has both, transformers 5 reads `rope_scaling` alone and transformers 4 may read either: here they must
agree.
"""

import math
from collections.abc import Mapping
from typing import Any

from r1jax.models.config import Llama3Rope, ModelConfig, Yarn

FAMILIES = {
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}
_DEFAULT_LENGTH = 32_768  # written where the model says nothing
_COMMON = {
    "vocab_size": ("vocab_size", int),
    "num_hidden_layers": ("num_layers", int),
    "hidden_size": ("model_dim", int),
    "intermediate_size": ("ffn_dim", int),
    "num_attention_heads": ("num_heads", int),
    "tie_word_embeddings": ("tie_embeddings", False),
    "max_position_embeddings": ("max_length", int),
    "rms_norm_eps": ("rms_eps", 1e-6),
    "initializer_range": ("init_std", 0.02),
}
"""Key of config.json -> (field of ModelConfig, default where it is absent, or the type of what must be there)."""
_NOTHING_ELSE = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "attention_dropout": (0.0,),
    "is_causal": (True,),  # False: transformers lets a token see the later ones
    "per_layer_config": (),
    "partial_rotary_factor": (1, 1.0),
    "rope_interleave": (True,),
    "moe_layer_freq": (1,),
}
"""Key -> what it may be where it is there."""
_MLA = {
    "q_lora_rank": ("q_lora_rank", 0),
    "kv_lora_rank": ("kv_lora_rank", int),
    "qk_nope_head_dim": ("nope_head_dim", int),
    "qk_rope_head_dim": ("rope_head_dim", int),
    "v_head_dim": ("value_head_dim", int),
    "n_routed_experts": ("num_experts", int),
    "num_experts_per_tok": ("num_experts_per_token", int),
    "n_shared_experts": ("num_shared_experts", 0),
    "moe_intermediate_size": ("expert_ffn_dim", int),
    "first_k_dense_replace": ("num_dense_layers", 0),
    "n_group": ("num_groups", 1),
    "topk_group": ("num_groups_per_token", 1),
    "routed_scaling_factor": ("routed_scaling", 1.0),
    "norm_topk_prob": ("normalize_weights", True),
}
"""The same for DeepSeek's."""
_DEFAULTS_DIFFER = (
    "n_group", "topk_group", "n_shared_experts", "first_k_dense_replace", "routed_scaling_factor", "norm_topk_prob",
)  # fmt: skip
"""What the code released with V3 and transformers take for different values where it is absent; here it may be null."""
_YARN = {
    "factor": ("factor", float),
    "original_max_position_embeddings": ("original_length", int),
    "beta_fast": ("beta_fast", 32.0),
    "beta_slow": ("beta_slow", 1.0),
    "mscale": ("mscale", 1.0),
    "mscale_all_dim": ("mscale_all_dim", 0.0),
}
_LLAMA3 = {
    "factor": ("factor", float),
    "low_freq_factor": ("low_freq_factor", float),
    "high_freq_factor": ("high_freq_factor", float),
    "original_max_position_embeddings": ("original_length", int),
}
"""The same for the kinds of RoPE scaling, whose fields are those of Yarn and Llama3Rope."""
_ROPE_KEYS = {"default": (), "yarn": (*_YARN, "attention_factor", "truncate"), "llama3": (*_LLAMA3,)}
"""Kind of RoPE scaling -> what transformers reads of it."""


class _Reader:
    """Reads keys of one object and collects what is wrong with them."""

    def __init__(self, values: Mapping[str, Any], faults: list[str], prefix: str = ""):
        self.values, self.faults, self.prefix = values, faults, prefix

    def get(self, key: str, default: Any) -> Any:
        """The value of a key, of the default's type, or of the type that must be there; null is absent; a fault gives its zero."""
        kind = default if isinstance(default, type) else type(default)
        value = self.values.get(key)
        if value is None:
            if default is not kind:
                return default
            self.faults.append(f"config.json: {self.prefix}{key} is missing")
            return kind()
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            self.faults.append(f"config.json: {self.prefix}{key}={value!r} must be of type {kind.__name__}")
            return kind()
        return value

    def fields(self, table: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
        """The fields of a table's keys."""
        return {field: self.get(key, default) for key, (field, default) in table.items()}

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
    if not isinstance(family, str) or family not in FAMILIES:
        return None, [f"config.json: model_type={family!r} is not supported; known: {', '.join(FAMILIES)}"]
    faults: list[str] = []
    reader = _Reader(raw, faults)
    for key, known in _NOTHING_ELSE.items():
        reader.only(key, *known)
    fields = reader.fields(_COMMON) | (_mla if family.startswith("deepseek") else _gqa)(reader, family) | _rope(reader)
    if faults:
        return None, list(dict.fromkeys(faults))
    try:
        return ModelConfig(**fields), []
    except ValueError as error:
        return None, [f"config.json: {error}"]


def _gqa(r: _Reader, family: str) -> dict[str, Any]:
    num_layers, num_heads = r.get("num_hidden_layers", int), r.get("num_attention_heads", int)
    windowed = r.values.get("use_sliding_window", False) and r.get("max_window_layers", 0) < num_layers
    if windowed:
        r.faults.append("config.json: use_sliding_window=True is not supported: attention here sees all earlier tokens")
    if any(kind != "full_attention" for kind in r.get("layer_types", [])) and not windowed:
        r.faults.append(
            f"config.json: layer_types={r.values['layer_types']!r:.80} is not supported; known: 'full_attention'"
        )
    return {
        "attention": "gqa",
        "num_kv_heads": r.get("num_key_value_heads", num_heads),
        "head_dim": r.get("head_dim", r.get("hidden_size", int) // max(num_heads, 1)),
        "qkv_bias": family == "qwen2",
    }


def _mla(r: _Reader, family: str) -> dict[str, Any]:
    is_v3 = family == "deepseek_v3"
    for key in _DEFAULTS_DIFFER:
        if is_v3 and key not in r.values:
            r.faults.append(f"config.json: {key} is missing")
    r.only("num_key_value_heads", r.values.get("num_attention_heads"))
    r.only("scoring_func", "sigmoid" if is_v3 else "softmax")
    r.only("topk_method", *(("noaux_tc",) if is_v3 else ("greedy", "group_limited_greedy")))
    if not is_v3:
        r.only("norm_topk_prob", False)  # its released code then leaves out routed_scaling_factor
    fields = r.fields(_MLA)
    if not is_v3:
        fields["normalize_weights"] = False
        if r.values.get("topk_method") != "group_limited_greedy":
            fields["num_groups"] = fields["num_groups_per_token"] = 1
    return fields | {
        "attention": "mla",
        "score_function": "sigmoid" if is_v3 else "softmax",
        "router_bias": is_v3,
        "num_mtp_layers": r.get("num_nextn_predict_layers", r.get("num_mtp_layers", 0)) if is_v3 else 0,
    }


def _rope(r: _Reader) -> dict[str, Any]:
    """The fields that `rope_scaling` or `rope_parameters` give; a fault where both are there and differ."""
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
    rope = _Reader(r.get(key, {}), r.faults, f"{key}.")
    fields: dict[str, Any] = {"rope_theta": rope.get("rope_theta", r.get("rope_theta", 10_000.0))}
    rope.only("partial_rotary_factor", 1, 1.0)
    kind = rope.values.get("rope_type") or rope.values.get("type") or "default"
    if not isinstance(kind, str) or kind not in _ROPE_KEYS:
        r.faults.append(f"config.json: {key}.rope_type={kind!r} is not supported; known: {', '.join(_ROPE_KEYS)}")
        return fields
    if rope.values.get("type"):
        rope.only("type", kind)
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *_ROPE_KEYS[kind]}
    for name, value in sorted(rope.values.items()):
        if name not in known and value is not None:
            r.faults.append(f"config.json: {key}.{name}={value!r} says nothing where rope_type is {kind!r}")
    length = r.get("max_position_embeddings", int)
    if kind == "yarn":
        rope.only("attention_factor")
        rope.only("truncate", True)
        if bool(rope.values.get("mscale")) != bool(rope.values.get("mscale_all_dim")):
            r.faults.append(f"config.json: {key} has one of mscale and mscale_all_dim: it must have both or neither")
        scaling: dict[str, Any] = rope.fields(_YARN | {"original_max_position_embeddings": ("original_length", length)})
        scaling["mscale"] = scaling["mscale"] or 1.0
        fields["yarn"] = Yarn(**scaling)
    if kind == "llama3":
        fields["llama3_rope"] = Llama3Rope(**rope.fields(_LLAMA3))
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
        f"num_mtp_layers={c.num_mtp_layers}; known: {', '.join(FAMILIES)}"
    )


def write_config(config: ModelConfig, *, dtype: str) -> dict[str, Any]:
    """config.json of a model, with what transformers, vLLM and SGLang read; `dtype` is that of the weights on disk."""
    c, family = config, family_of(config)
    raw: dict[str, Any] = {
        "architectures": [FAMILIES[family]],
        "model_type": family,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "use_cache": True,
        "torch_dtype": dtype,
        "rope_theta": c.rope_theta,
        "rope_scaling": _write_rope(c),
        **{key: getattr(c, field) for key, (field, _) in _COMMON.items()},
        "max_position_embeddings": c.max_length or _DEFAULT_LENGTH,
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
        **{key: getattr(c, field) for key, (field, _) in _MLA.items()},
        "q_lora_rank": c.q_lora_rank or None,
        "moe_layer_freq": 1,
        "scoring_func": c.score_function,
        "ep_size": 1,
    }
    if family == "deepseek_v2":
        return raw | {"topk_method": "group_limited_greedy" if c.num_groups > 1 else "greedy"}
    return raw | {"topk_method": "noaux_tc", "num_nextn_predict_layers": c.num_mtp_layers}


def _write_rope(c: ModelConfig) -> dict[str, Any] | None:
    if c.llama3_rope:
        return {"rope_type": "llama3", **{key: getattr(c.llama3_rope, field) for key, (field, _) in _LLAMA3.items()}}
    if not c.yarn:
        return None
    scaling = {key: getattr(c.yarn, field) for key, (field, _) in _YARN.items()}
    if not c.yarn.mscale_all_dim:
        del scaling["mscale"], scaling["mscale_all_dim"]
        if not math.isclose(c.yarn.mscale, 1.0):
            raise ValueError(f"yarn mscale={c.yarn.mscale} with mscale_all_dim=0 cannot be said in config.json")
    return {"type": "yarn", "rope_type": "yarn", **scaling}
