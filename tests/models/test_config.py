import dataclasses
import json
import re

import jax
import pytest

from r1jax.models.config import Llama3Rope, ModelConfig, Yarn
from r1jax.models.mla import MLA
from r1jax.models.presets import PRESETS, make_preset
from r1jax.models.transformer import make_model, parameter_counts
from tests.tiny import GQA, V3

WRONG = [
    (GQA, {"vocab_size": 0}, "vocab_size"),
    (GQA, {"num_layers": 0}, "num_layers"),
    (GQA, {"num_heads": -1}, "num_heads"),
    (GQA, {"num_kv_heads": 0}, "num_kv_heads"),
    (GQA, {"num_kv_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
    (GQA, {"head_dim": 7}, "head_dim must be even"),
    (GQA, {"attention": "linear"}, "attention must be 'gqa' or 'mla', got 'linear'"),
    (V3, {"kv_lora_rank": 0}, "kv_lora_rank"),
    (V3, {"rope_head_dim": 5}, "rope_head_dim must be even"),
    (V3, {"value_head_dim": 0}, "value_head_dim"),
    (V3, {"num_experts_per_token": 9}, "num_experts_per_token 9"),
    (V3, {"num_experts_per_token": 0}, "num_experts_per_token 0"),
    (V3, {"num_groups": 3}, "num_experts 8 is not a multiple of num_groups 3"),
    (V3, {"num_groups_per_token": 5}, "num_groups_per_token 5"),
    (V3, {"num_experts_per_token": 5}, "num_experts_per_token 5 exceeds the 4 experts that 2 groups hold"),
    (V3, {"expert_ffn_dim": 0}, "expert_ffn_dim"),
    (V3, {"num_dense_layers": 3}, "num_dense_layers 3"),
    (V3, {"score_function": "tanh"}, "score_function must be one of ('sigmoid', 'softmax'), got 'tanh'"),
    (
        GQA,
        {"attention_implementation": "cuda"},
        "attention_implementation must be one of ('auto', 'reference', 'xla', 'cudnn'",
    ),
    (
        V3,
        {"expert_implementation": None},
        "expert_implementation must be one of ('auto', 'reference', 'xla', 'ragged_dot'",
    ),
    (V3, {"num_mtp_layers": -1}, "num_mtp_layers"),
    (V3, {"num_groups": 0}, "num_groups must be positive, got 0"),
    (V3, {"num_experts": -8}, "num_experts must not be negative, got -8"),
    (V3, {"num_shared_experts": -1}, "num_shared_experts must not be negative, got -1"),
    (V3, {"q_lora_rank": -3}, "q_lora_rank must not be negative, got -3"),
    (GQA, {"rms_eps": float("nan")}, "rms_eps must not be negative, got nan"),
    (GQA, {"rope_theta": 1.0}, "rope_theta must be finite and more than 1, got 1.0"),
    (GQA, {"dtype": "int8"}, "dtype must be a floating-point type, got 'int8'"),
    (V3, {"yarn": Yarn(0.0, 8)}, "factor and original_length must be positive, got Yarn"),
    (V3, {"yarn": Yarn(4.0, 0)}, "factor and original_length must be positive, got Yarn"),
    (V3, {"yarn": Yarn(4.0, 8, beta_slow=0.0)}, "beta_fast must be at least beta_slow, and that positive"),
    (GQA, {"llama3_rope": Llama3Rope(8.0, 4.0, 4.0, 8192)}, "high_freq_factor must exceed low_freq_factor"),
    (V3, {"llama3_rope": Llama3Rope(8.0, 1.0, 4.0, 8192)}, "yarn and llama3_rope exclude each other"),
]


@pytest.mark.parametrize(("config", "change", "message"), WRONG)
def test_errors_name_the_field(config, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(config, **change)


def test_an_unknown_compute_type_raises():
    with pytest.raises(TypeError, match="float33"):
        dataclasses.replace(GQA, dtype="float33")


def test_v3_has_671_billion_parameters():
    """Spec, golden numbers, with norms and gate biases."""
    counts = parameter_counts(make_preset("deepseek_v3"))
    assert counts == (671_026_419_200, 37_552_297_472, 11_610_068_224)
    params, buffers = make_model(make_preset("deepseek_v3")).abstract()
    assert buffers["moe"]["ffn"]["router_bias_E"].shape == (58, 256)
    assert params["dense"]["ffn"]["w_up_DF"].shape == (3, 7168, 18_432)
    assert params["moe"]["ffn"]["w_up_EDF"].shape == (58, 256, 7168, 2048)
    assert params["mtp"]["w_proj_AD"].shape == (1, 2 * 7168, 7168)


# Those of the checkpoints of these names.
TOTALS = {
    "deepseek_r1": 671_026_419_200,
    "deepseek_r1_zero": 671_026_419_200,
    "deepseek_v2": 235_741_434_880,
    "deepseek_v2_lite": 15_706_484_224,
    "qwen2_5_math_1_5b": 1_543_714_304,
    "r1_distill_qwen_1_5b": 1_777_088_000,
    "r1_distill_qwen_7b": 7_615_616_512,
    "r1_distill_qwen_14b": 14_770_033_664,
    "r1_distill_qwen_32b": 32_763_876_352,
    "r1_distill_llama_8b": 8_030_261_248,
    "r1_distill_llama_70b": 70_553_706_496,
    "smollm2_135m": 134_515_008,
}


@pytest.mark.parametrize("name", TOTALS)
def test_parameter_counts_of_the_released_models(name):
    assert parameter_counts(make_preset(name)).total == TOTALS[name]


def test_v2_activates_a_fraction():
    """Spec A.1.2: 21.4B of V2, 2.66B of V2-Lite."""
    assert parameter_counts(make_preset("deepseek_v2")).activated == pytest.approx(21.4e9, rel=2e-3)
    assert parameter_counts(make_preset("deepseek_v2_lite")).activated == pytest.approx(2.66e9, rel=2e-3)


def test_presets_take_a_vocabulary_and_unknown_names_raise():
    for name in PRESETS:
        assert make_preset(name, 300).vocab_size == 300
    with pytest.raises(ValueError, match=r"no model preset 'mini_v4'; near it: mini_v3"):
        make_preset("mini_v4")


@pytest.mark.parametrize("config", [make_preset("deepseek_v3"), make_preset("llama3_1_8b"), GQA])
def test_a_config_survives_json(config):
    fields = json.loads(json.dumps(dataclasses.asdict(config)))
    assert ModelConfig.from_dict(fields) == config


def test_softmax_scale_of_v3():
    config = make_preset("deepseek_v3")
    scale = MLA.softmax_scale.fget
    assert scale(_WithConfig(config)) == pytest.approx(0.1352337789, rel=1e-9)
    v2 = make_preset("deepseek_v2")
    assert scale(_WithConfig(v2)) == pytest.approx(0.1147214, rel=1e-6)
    assert scale(_WithConfig(dataclasses.replace(config, yarn=None))) == pytest.approx(192**-0.5)


@dataclasses.dataclass
class _WithConfig:
    config: object


def test_the_mini_model_has_every_part_of_the_big_one():
    mini, big = dataclasses.replace(make_preset("mini_v3", 384), num_mtp_layers=1), make_preset("deepseek_v3")
    assert jax.tree.structure(make_model(mini).abstract()) == jax.tree.structure(make_model(big).abstract())
    assert 2_000_000 < parameter_counts(make_preset("mini_v3", 384)).total < 6_000_000
