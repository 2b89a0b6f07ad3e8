import dataclasses
import json

import pytest

from r1jax.hf.config import FAMILIES, family_of, read_config, write_config
from r1jax.models.config import Llama3Rope, Yarn
from r1jax.models.presets import PRESETS, make_preset
from tests.tiny import GQA, V3

# The released config.json of DeepSeek-R1, but for what no reader needs (spec A.1.1).
R1 = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "attention_bias": False,
    "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 1, "ep_size": 1, "first_k_dense_replace": 3,
    "hidden_act": "silu", "hidden_size": 7168, "initializer_range": 0.02, "intermediate_size": 18432,
    "kv_lora_rank": 512, "max_position_embeddings": 163840, "moe_intermediate_size": 2048, "moe_layer_freq": 1,
    "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": True, "num_attention_heads": 128,
    "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096, "type": "yarn",
    },
    "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "tie_word_embeddings": False,
    "topk_group": 4, "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "use_cache": True, "v_head_dim": 128,
    "vocab_size": 129280,
}  # fmt: skip
LLAMA = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu",
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": False,
    "rope_scaling": {
        "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
}  # fmt: skip
QWEN = {
    "model_type": "qwen2", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "hidden_act": "silu",
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-06, "rope_theta": 10000, "tie_word_embeddings": False,
    "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28, "attention_dropout": 0.0,
}  # fmt: skip


def config_of(raw):
    config, faults = read_config(raw)
    assert faults == [] and config is not None
    return config


def faults_of(raw):
    config, faults = read_config(raw)
    assert config is None
    return [fault.removeprefix("config.json: ") for fault in faults]


def without_habits(config):
    return dataclasses.replace(config, dtype="float32", remat="none", init_std=0.02)


def test_the_released_config_is_the_preset():
    assert config_of(R1) == without_habits(make_preset("deepseek_v3"))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_comes_back(name):
    config = without_habits(make_preset(name, 1000 if name.startswith("mini") else None))
    raw = json.loads(json.dumps(write_config(config, dtype="bfloat16")))
    assert raw["torch_dtype"] == "bfloat16" and raw["architectures"] == [FAMILIES[raw["model_type"]]]
    assert dataclasses.replace(config_of(raw), max_length=config.max_length) == config
    assert raw["max_position_embeddings"] == config.max_length or not config.max_length


def test_both_spellings_of_rope_scaling():
    new = {key: value for key, value in LLAMA.items() if key not in ("rope_theta", "rope_scaling")}
    new["rope_parameters"] = LLAMA["rope_scaling"] | {"rope_theta": 500000.0}
    assert config_of(new) == config_of(LLAMA)
    config = config_of(LLAMA)
    assert config.rope_theta == 500_000.0 and config.llama3_rope == Llama3Rope(8.0, 1.0, 4.0, 8192)
    plain = config_of(LLAMA | {"rope_scaling": None, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}})
    assert plain.rope_theta == 7.0 and plain.llama3_rope is None and plain.yarn is None


def test_both_spellings_in_one_file_must_agree():
    """transformers 5 reads rope_scaling alone; a user may have meant either."""
    new = LLAMA["rope_scaling"] | {"rope_theta": 500000.0}
    assert config_of(LLAMA | {"rope_parameters": new}) == config_of(LLAMA)
    plain = {"rope_type": "default", "rope_theta": 500000.0}
    assert faults_of(LLAMA | {"rope_parameters": plain}) == [
        "rope_scaling and rope_parameters differ, in llama3_rope: Llama3Rope(factor=8.0, low_freq_factor=1.0, "
        "high_freq_factor=4.0, original_length=8192) and None; remove the wrong one"
    ]
    assert faults_of(LLAMA | {"rope_parameters": new | {"rope_theta": 7.0}}) == [
        "rope_scaling and rope_parameters differ, in rope_theta: 500000.0 and 7.0; remove the wrong one"
    ]
    # as the README of Qwen2.5 says to, in a file that transformers 5 wrote: without a theta of its own
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    both = {key: value for key, value in QWEN.items() if key != "rope_theta"}
    both |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}, "rope_scaling": yarn}
    assert [fault.split(":")[0] for fault in faults_of(both)] == [
        "rope_scaling and rope_parameters differ, in rope_theta",
        "rope_scaling and rope_parameters differ, in yarn",
    ]
    for empty in (None, {}):
        assert config_of(LLAMA | {"rope_parameters": empty}) == config_of(LLAMA)


def test_mtp_layers_by_the_name_of_transformers():
    """transformers' class calls them num_mtp_layers and writes num_nextn_predict_layers; a file may have either."""
    without = {key: value for key, value in R1.items() if key != "num_nextn_predict_layers"}
    assert config_of(without).num_mtp_layers == 0
    assert config_of(without | {"num_mtp_layers": 1}).num_mtp_layers == 1


def test_yarn_without_scales_of_its_own():
    """transformers then multiplies cos and sin by 0.1 ln s + 1, and leaves the softmax alone."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = config_of(QWEN | {"rope_scaling": yarn})
    assert config.yarn == Yarn(factor=4.0, original_length=32768, mscale=1.0, mscale_all_dim=0.0)
    raw = write_config(config, dtype="float32")
    assert "mscale" not in raw["rope_scaling"] and config_of(raw) == config


def test_families():
    llama, qwen = config_of(LLAMA), config_of(QWEN)
    assert (llama.qkv_bias, llama.num_kv_heads, llama.head_dim, llama.max_length) == (False, 8, 128, 131072)
    assert (qwen.qkv_bias, qwen.num_kv_heads, qwen.head_dim) == (True, 4, 128)
    assert config_of(QWEN | {"head_dim": 64}).head_dim == 64
    assert config_of(LLAMA | {"head_dim": None, "num_key_value_heads": None}).num_kv_heads == 32
    v2 = R1 | {
        "model_type": "deepseek_v2", "q_lora_rank": None, "scoring_func": "softmax", "norm_topk_prob": False,
        "topk_method": "greedy",
    }  # fmt: skip
    config = config_of(v2)
    assert (config.num_groups, config.num_groups_per_token, config.q_lora_rank) == (1, 1, 0)  # greedy: no groups
    assert (config.score_function, config.normalize_weights, config.router_bias) == ("softmax", False, False)
    grouped = config_of(v2 | {"topk_method": "group_limited_greedy"})
    assert (grouped.num_groups, grouped.num_groups_per_token) == (8, 4)
    assert write_config(grouped, dtype="float32")["topk_method"] == "group_limited_greedy"


def test_sliding_windows_that_no_layer_has_are_fine():
    assert config_of(QWEN | {"use_sliding_window": True, "max_window_layers": 28}) == config_of(QWEN)
    assert config_of(QWEN | {"layer_types": ["full_attention"] * 28}) == config_of(QWEN)


_YARN = {"rope_type": "yarn", "original_max_position_embeddings": 8}
NOT_SUPPORTED = [
    (LLAMA, {"hidden_act": "gelu"}, "hidden_act='gelu' is not supported; known: 'silu'"),
    (LLAMA, {"attention_bias": True}, "attention_bias=True is not supported; known: False"),
    (LLAMA, {"mlp_bias": True}, "mlp_bias=True is not supported; known: False"),
    (LLAMA, {"vocab_size": "12"}, "vocab_size='12' must be of type int"),
    (LLAMA, {"vocab_size": None}, "vocab_size is missing"),
    (
        LLAMA,
        {"model_type": "gemma3"},
        "model_type='gemma3' is not supported; known: deepseek_v2, deepseek_v3, llama, qwen2",
    ),
    (
        LLAMA,
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        "rope_scaling.rope_type='linear' is not supported; known: default, yarn, llama3",
    ),
    (LLAMA, {"rope_scaling": _YARN}, "rope_scaling.factor is missing"),
    (
        LLAMA,
        {"rope_scaling": _YARN | {"factor": 2.0, "attention_factor": 1.2}},
        "rope_scaling.attention_factor=1.2 is not supported; known: none",
    ),
    (
        LLAMA,
        {"rope_scaling": None, "rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 2.0}}},
        "rope_parameters.full_attention={'rope_type': 'yarn', 'factor': 2.0} says nothing where rope_type is 'default'",
    ),
    (LLAMA, {"rope_scaling": {"factor": 4.0}}, "rope_scaling.factor=4.0 says nothing where rope_type is 'default'"),
    (
        LLAMA,
        {"rope_scaling": LLAMA["rope_scaling"] | {"type": "yarn"}},
        "rope_scaling.type='yarn' is not supported; known: 'llama3'",
    ),
    (
        LLAMA,
        {"rope_scaling": {"rope_type": ["yarn"]}},
        "rope_scaling.rope_type=['yarn'] is not supported; known: default, yarn, llama3",
    ),
    (
        LLAMA,
        {"original_max_position_embeddings": 4096},
        "original_max_position_embeddings=4096 is not supported; known: 8192",
    ),
    (QWEN, {"is_causal": False}, "is_causal=False is not supported; known: True"),
    (
        QWEN,
        {"per_layer_config": {"1": {"head_dim": 8}}},
        "per_layer_config={'1': {'head_dim': 8}} is not supported; known: none",
    ),
    (LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported; known: 1 or 1.0"),
    (LLAMA, {"num_key_value_heads": 5}, "ModelConfig: num_heads 32 is not a multiple of num_kv_heads 5"),
    (
        QWEN,
        {"use_sliding_window": True, "max_window_layers": 20},
        "use_sliding_window=True is not supported: attention here sees all earlier tokens",
    ),
    (
        QWEN,
        {"layer_types": ["sliding_attention"]},
        "layer_types=['sliding_attention'] is not supported; known: 'full_attention'",
    ),
    (
        QWEN,
        {"layer_types": [["full_attention"]]},
        "layer_types=[['full_attention']] is not supported; known: 'full_attention'",
    ),
    (
        LLAMA,
        {"model_type": ["llama"]},
        "model_type=['llama'] is not supported; known: deepseek_v2, deepseek_v3, llama, qwen2",
    ),
    (LLAMA, {"max_position_embeddings": None}, "max_position_embeddings is missing"),
    (R1, {"n_group": 0}, "ModelConfig: num_groups must be positive, got 0"),
    (R1, {"moe_layer_freq": 2}, "moe_layer_freq=2 is not supported; known: 1"),
    (R1, {"scoring_func": "softmax"}, "scoring_func='softmax' is not supported; known: 'sigmoid'"),
    (R1, {"topk_method": "greedy"}, "topk_method='greedy' is not supported; known: 'noaux_tc'"),
    (R1, {"rope_interleave": False}, "rope_interleave=False is not supported; known: True"),
    (
        R1,
        {"rope_scaling": R1["rope_scaling"] | {"mscale_all_dim": None}},
        "rope_scaling has one of mscale and mscale_all_dim: it must have both or neither",
    ),
]


@pytest.mark.parametrize(("raw", "change", "fault"), NOT_SUPPORTED)
def test_what_is_not_supported_is_named(raw, change, fault):
    assert faults_of(raw | change) == [fault]


def test_all_faults_at_once():
    faults = faults_of(R1 | {"hidden_act": "relu", "n_group": 1.5, "moe_layer_freq": 2, "kv_lora_rank": None})
    assert len(faults) == 4


def test_what_has_more_than_one_default_must_be_there():
    """Without n_group, transformers takes 8 groups and the code released with the weights none."""
    keys = [
        "n_group",
        "topk_group",
        "n_shared_experts",
        "first_k_dense_replace",
        "routed_scaling_factor",
        "norm_topk_prob",
    ]
    assert faults_of({k: v for k, v in R1.items() if k not in keys}) == [f"{key} is missing" for key in keys]
    assert config_of(R1 | {"n_shared_experts": None}).num_shared_experts == 0


def test_what_no_family_has():
    for config in (
        dataclasses.replace(V3, router_bias=False),
        dataclasses.replace(V3, score_function="softmax"),
        dataclasses.replace(V3, num_experts=0),
        dataclasses.replace(GQA, num_mtp_layers=1),
    ):
        with pytest.raises(ValueError, match="no Hugging Face family has attention='(mla|gqa)'"):
            family_of(config)
    assert family_of(make_preset("mini_v3", 64)) == "deepseek_v3" and family_of(GQA) == "qwen2"
    with pytest.raises(ValueError, match=r"yarn mscale=0\.7"):
        write_config(dataclasses.replace(V3, yarn=Yarn(4.0, 8, mscale=0.7, mscale_all_dim=0.0)), dtype="float32")
