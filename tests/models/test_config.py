import dataclasses
import re

import jax
import pytest

from r1jax.models.config import deepseek_v3, mini_v3
from r1jax.models.mla import MLA
from r1jax.models.transformer import count_params, make_model
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
]


@pytest.mark.parametrize(("config", "change", "message"), WRONG)
def test_errors_name_the_field(config, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(config, **change)


def test_an_unknown_compute_type_raises():
    with pytest.raises(TypeError, match="float33"):
        dataclasses.replace(GQA, dtype="float33")


def test_v3_has_671_billion_parameters():
    """Spec, golden numbers: 671,026,419,200 with norms and gate biases."""
    params, buffers = make_model(deepseek_v3()).abstract()
    assert count_params(params) + count_params(buffers) == 671_026_419_200
    assert jax.tree.leaves(buffers)[0].shape == (58, 256)
    assert params["dense"]["ffn"]["w_up_DF"].shape == (3, 7168, 18_432)
    assert params["moe"]["ffn"]["w_up_EDF"].shape == (58, 256, 7168, 2048)


def test_softmax_scale_of_v3():
    config = deepseek_v3()
    scale = MLA.softmax_scale.fget
    assert scale(_WithConfig(config)) == pytest.approx(0.1352337789, rel=1e-9)
    v2 = dataclasses.replace(config, yarn=dataclasses.replace(config.yarn, mscale=0.707, mscale_all_dim=0.707))
    assert scale(_WithConfig(v2)) == pytest.approx(0.1147214, rel=1e-6)
    assert scale(_WithConfig(dataclasses.replace(config, yarn=None))) == pytest.approx(192**-0.5)


@dataclasses.dataclass
class _WithConfig:
    config: object


def test_the_mini_model_has_every_part_of_the_big_one():
    mini, big = mini_v3(384), deepseek_v3()
    assert jax.tree.structure(make_model(mini).abstract()) == jax.tree.structure(make_model(big).abstract())
    assert 2_000_000 < count_params(make_model(mini).abstract()[0]) < 6_000_000
