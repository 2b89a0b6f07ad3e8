import dataclasses

import jax
import numpy as np
import pytest

from r1jax.hf.names import check_tensors, gguf_to_hf, hf_places, params_from_hf, params_to_hf
from r1jax.models.config import ModelConfig, mini_v3
from r1jax.models.transformer import make_model

QWEN = ModelConfig(
    vocab_size=11, num_layers=3, model_dim=8, ffn_dim=12, num_heads=4, num_kv_heads=2, head_dim=6, qkv_bias=True
)


@pytest.fixture(scope="module")
def params():
    return make_model(QWEN).init(jax.random.key(0))[0]


def test_out_and_in_again_is_bit_identical(params):
    tensors = dict(params_to_hf(params, QWEN))
    check_tensors({name: array.shape for name, array in tensors.items()}, QWEN, source="test")
    again = params_from_hf(tensors.items(), QWEN)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_hf_names_and_shapes(params):
    shapes = {name: array.shape for name, array in params_to_hf(params, QWEN)}
    assert len(shapes) == 3 + 3 * 12
    assert shapes["model.embed_tokens.weight"] == shapes["lm_head.weight"] == (11, 8)
    assert shapes["model.layers.2.self_attn.q_proj.weight"] == (24, 8)
    assert shapes["model.layers.2.self_attn.k_proj.bias"] == (12,)
    assert shapes["model.layers.0.self_attn.o_proj.weight"] == (8, 24)
    assert shapes["model.layers.1.mlp.down_proj.weight"] == (8, 12)


def test_heads_are_consecutive_rows(params):
    tensors = dict(params_to_hf(params, QWEN))
    w_q_DNH = params["dense"]["attention"]["w_q_DNH"][1]
    np.testing.assert_array_equal(tensors["model.layers.1.self_attn.q_proj.weight"][6:12], w_q_DNH[:, 1].T)
    w_o_NHD = params["dense"]["attention"]["w_o_NHD"][1]
    np.testing.assert_array_equal(tensors["model.layers.1.self_attn.o_proj.weight"][:, 6:12], w_o_NHD[1].T)


def test_every_parameter_has_a_name():
    for config in (QWEN, dataclasses.replace(QWEN, qkv_bias=False, tie_embeddings=True)):
        leaves = jax.tree.leaves_with_path(make_model(config).abstract()[0])
        named = {place.path for place in hf_places(config).values()}
        assert named == {tuple(key.key for key in path) for path, _ in leaves}


def test_a_family_without_a_table():
    with pytest.raises(ValueError, match="only dense models"):
        hf_places(mini_v3(64))


def test_gguf_names():
    assert gguf_to_hf("blk.12.attn_output.weight") == "model.layers.12.self_attn.o_proj.weight"
    assert gguf_to_hf("output_norm.weight") == "model.norm.weight"
    assert gguf_to_hf("blk.0.{x}.weight") == "blk.0.{x}.weight"
