import dataclasses

import jax
import numpy as np
import pytest

from r1jax.hf.names import Place, hf_places
from r1jax.models.config import ModelConfig
from r1jax.models.presets import make_preset
from r1jax.models.transformer import make_model
from tests.tiny import V3, shaken

QWEN = ModelConfig(
    vocab_size=11, num_layers=3, model_dim=8, ffn_dim=12, num_heads=4, num_kv_heads=2, head_dim=6, qkv_bias=True
)
MTP = dataclasses.replace(V3, num_mtp_layers=2)
LITE = dataclasses.replace(
    V3, q_lora_rank=0, score_function="softmax", router_bias=False, normalize_weights=False, num_shared_experts=0
)
CONFIGS = [
    QWEN,
    dataclasses.replace(QWEN, qkv_bias=False, tie_embeddings=True),
    V3,
    MTP,
    dataclasses.replace(MTP, tie_embeddings=True),
    LITE,
]


def tensors_of(config):
    """(trees, Hugging Face's arrays by name) of random weights."""
    params, buffers = shaken(make_model(config))
    trees = jax.tree.map(np.asarray, {"params": params, "buffers": buffers})
    tensors = {}
    for name, place in hf_places(config).items():
        leaf = trees
        for key in place.path:
            leaf = leaf[key]
        tensors[name] = place.to_hf(leaf[place.index])
    return trees, tensors


@pytest.mark.parametrize("config", CONFIGS, ids=["qwen", "llama tied", "v3", "mtp", "mtp tied", "lite"])
def test_every_array_has_its_names_and_comes_back(config):
    trees, tensors = tensors_of(config)
    again = jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, np.float32), trees)
    for name, place in hf_places(config).items():
        assert tensors[name].shape == place.hf_shape
        leaf = again
        for key in place.path:
            leaf = leaf[key]
        target = leaf[place.index] if place.index else leaf
        target[...] = place.to_ours(tensors[name])
    jax.tree.map(np.testing.assert_array_equal, again, trees)


@pytest.mark.parametrize("num_inputs", [-1, 0, 1, 2])
def test_a_part_is_the_part_of_the_whole(num_inputs):
    shape = {-1: (40, 6), 0: (6, 4), 1: (40, 6, 4), 2: (6, 4, 40)}[num_inputs]
    place = Place(("params", "x"), (), num_inputs, shape)
    ours = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    hf = place.to_hf(ours)
    first, last = shape[0], shape[-1]
    in_hf = {-1: ours, 0: ours.ravel(), 1: ours.reshape(first, -1).T, 2: ours.reshape(-1, last).T}[num_inputs]
    np.testing.assert_array_equal(hf, in_hf)
    parts = [tuple(slice(0, n) for n in shape), (slice(2, 4), *(slice(0, n) for n in shape[1:]))]
    parts.append(tuple(slice(1, n - 1) for n in shape))  # inner dims of a merged group cut too
    for part in parts:
        np.testing.assert_array_equal(place.to_ours(hf[place.hf_part(part)], part), ours[part])
        for dtype in (np.float32, np.float16):
            target = np.full(ours[part].shape, np.nan, dtype)
            place.fill(target, hf[place.hf_part(part)], part)
            np.testing.assert_array_equal(target, ours[part].astype(dtype))


def test_dense_names_and_shapes():
    _, tensors = tensors_of(QWEN)
    shapes = {name: array.shape for name, array in tensors.items()}
    assert len(shapes) == 3 + 3 * 12
    assert shapes["model.embed_tokens.weight"] == shapes["lm_head.weight"] == (11, 8)
    assert shapes["model.layers.2.self_attn.q_proj.weight"] == (24, 8)
    assert shapes["model.layers.2.self_attn.k_proj.bias"] == (12,)
    assert shapes["model.layers.0.self_attn.o_proj.weight"] == (8, 24)
    assert shapes["model.layers.1.mlp.down_proj.weight"] == (8, 12)


def test_heads_are_consecutive_rows():
    trees, tensors = tensors_of(QWEN)
    attention = trees["params"]["dense"]["attention"]
    np.testing.assert_array_equal(
        tensors["model.layers.1.self_attn.q_proj.weight"][6:12], attention["w_q_DNH"][1, :, 1].T
    )
    np.testing.assert_array_equal(
        tensors["model.layers.1.self_attn.o_proj.weight"][:, 6:12], attention["w_o_NHD"][1, 1].T
    )


def test_the_released_shapes_of_v3():
    """Spec A.8.1."""
    shapes = {name: place.hf_shape for name, place in hf_places(make_preset("deepseek_v3")).items()}
    layer = "model.layers.60."
    assert {
        name.removeprefix(layer): shape
        for name, shape in shapes.items()
        if name.startswith(layer) and (".experts." not in name or ".experts.255." in name)
    } == {
        "input_layernorm.weight": (7168,),
        "post_attention_layernorm.weight": (7168,),
        "self_attn.q_a_proj.weight": (1536, 7168),
        "self_attn.q_a_layernorm.weight": (1536,),
        "self_attn.q_b_proj.weight": (24576, 1536),
        "self_attn.kv_a_proj_with_mqa.weight": (576, 7168),
        "self_attn.kv_a_layernorm.weight": (512,),
        "self_attn.kv_b_proj.weight": (32768, 512),
        "self_attn.o_proj.weight": (7168, 16384),
        "mlp.gate.weight": (256, 7168),
        "mlp.gate.e_score_correction_bias": (256,),
        "mlp.experts.255.gate_proj.weight": (2048, 7168),
        "mlp.experts.255.up_proj.weight": (2048, 7168),
        "mlp.experts.255.down_proj.weight": (7168, 2048),
        "mlp.shared_experts.gate_proj.weight": (2048, 7168),
        "mlp.shared_experts.up_proj.weight": (2048, 7168),
        "mlp.shared_experts.down_proj.weight": (7168, 2048),
    }
    of_mtp = {name.removeprefix("model.layers.61.") for name in shapes if name.startswith("model.layers.61.")}
    of_block = {name.removeprefix(layer) for name in shapes if name.startswith(layer)}
    assert of_mtp - of_block == {
        "embed_tokens.weight",
        "enorm.weight",
        "hnorm.weight",
        "eh_proj.weight",
        "shared_head.norm.weight",
        "shared_head.head.weight",
    }
    assert of_block <= of_mtp
    assert shapes["model.layers.61.eh_proj.weight"] == (7168, 14336)
    assert shapes["model.layers.2.mlp.gate_proj.weight"] == (18432, 7168)
    assert "model.layers.3.mlp.gate_proj.weight" not in shapes
    assert len(shapes) == 3 + 3 * 12 + 58 * (14 + 3 * 256) + (14 + 3 * 256 + 6)


def test_v2_lite_has_one_query_projection_and_no_bias():
    names = hf_places(make_preset("deepseek_v2_lite"))
    assert names["model.layers.5.self_attn.q_proj.weight"].hf_shape == (16 * 192, 2048)
    assert not [name for name in names if "q_a_" in name or "e_score" in name]


def test_the_mtp_projection_takes_the_embedding_first():
    trees, tensors = tensors_of(MTP)
    for depth, layer in enumerate((3, 4)):
        eh_proj = tensors[f"model.layers.{layer}.eh_proj.weight"]
        w_proj_AD = trees["params"]["mtp"]["w_proj_AD"][depth]
        np.testing.assert_array_equal(eh_proj[:, :32], w_proj_AD[:32].T)
        np.testing.assert_array_equal(
            tensors[f"model.layers.{layer}.embed_tokens.weight"], tensors["model.embed_tokens.weight"]
        )
        np.testing.assert_array_equal(
            tensors[f"model.layers.{layer}.shared_head.head.weight"], tensors["lm_head.weight"]
        )
        bias_E = trees["buffers"]["mtp"]["block"]["ffn"]["router_bias_E"][depth]
        np.testing.assert_array_equal(tensors[f"model.layers.{layer}.mlp.gate.e_score_correction_bias"], bias_E)
