"""Folders made by transformers' own classes: their logits are ours, and it loads what we write."""

import copy
import dataclasses
import json
import sys

import jax
import numpy as np
import pytest

from r1jax.hf import Pretrained, load_pretrained, save_pretrained
from r1jax.hf.convert import main
from r1jax.models.transformer import make_model
from tests.tiny import V3, shaken

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("default"),  # transformers' and torch's own warnings
    pytest.mark.skipif(sys.version_info >= (3, 12), reason="the oracle is installed on Python 3.11 only"),
    pytest.mark.usefixtures("quick_compilation"),
]

_COMMON = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "initializer_range": 0.2, "max_position_embeddings": 32,
}  # fmt: skip
_MOE = _COMMON | {
    "num_hidden_layers": 3, "num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 8,
    "num_experts_per_tok": 2, "kv_lora_rank": 12, "qk_rope_head_dim": 8, "qk_nope_head_dim": 10, "v_head_dim": 6,
    "first_k_dense_replace": 1, "routed_scaling_factor": 2.5,
}  # fmt: skip
_YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "beta_fast": 2, "beta_slow": 0.2,
    "mscale": 0.707, "mscale_all_dim": 0.707,
}  # fmt: skip
_LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}  # fmt: skip
MODELS = {
    "v3 yarn": ("DeepseekV3", _MOE | {"q_lora_rank": 16, "n_shared_experts": 1, "n_group": 4, "topk_group": 2,
        "rope_scaling": _YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}}),
    "v3 plain": ("DeepseekV3", _MOE | {"q_lora_rank": None, "n_shared_experts": 0, "n_group": 1, "topk_group": 1,
        "num_experts_per_tok": 1, "first_k_dense_replace": 0}),
    "v2 lite": ("DeepseekV2", _MOE | {"q_lora_rank": None, "n_shared_experts": 2, "topk_method": "greedy",
        "rope_scaling": _YARN}),
    "v2": ("DeepseekV2", _MOE | {"q_lora_rank": 16, "n_shared_experts": 1, "topk_method": "group_limited_greedy",
        "n_group": 4, "topk_group": 2}),
    "qwen2 tied": ("Qwen2", _COMMON | {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen2 yarn": ("Qwen2", _COMMON | {"num_key_value_heads": 1,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}}),
    "llama3": ("Llama", _COMMON | {"num_key_value_heads": 2, "head_dim": 12, "rope_scaling": _LLAMA3}),
}  # fmt: skip
IN_BFLOAT16 = {"v3 yarn", "qwen2 tied"}
TOKENS = np.random.default_rng(0).integers(0, 48, (2, 20))  # past the original context of 8


def random_model(name):
    """A model of transformers' with random weights, biases and norms."""
    import torch
    import transformers

    family, fields = copy.deepcopy(MODELS[name])  # it writes defaults into the dicts that it is given
    torch.manual_seed(len(name))
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**fields))
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if "norm" in key:
                value.add_(0.1 * torch.randn(value.shape))
            elif key.endswith("bias"):  # positive: transformers masks discarded groups with 0.0 instead of -inf
                value.copy_(0.2 * torch.rand(value.shape))
    return model.to(torch.bfloat16) if name in IN_BFLOAT16 else model


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    """(folder, what it holds) of each model."""
    path = tmp_path_factory.mktemp("made") / request.param.replace(" ", "_")
    random_model(request.param).save_pretrained(path, max_shard_size="60KB")
    return path, request.param


def their_logits(path):
    import torch
    import transformers

    model, info = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    missing = [name for name in info["missing_keys"] if model.state_dict()[name].numel()]  # no shared expert: empty
    assert not missing and not info["mismatched_keys"]
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.numpy()


def test_logits_both_ways_and_bit_identical_weights(folder, tmp_path):
    path, name = folder
    expected = their_logits(path)
    dtype = "bfloat16" if name in IN_BFLOAT16 else "float32"
    model = load_pretrained(path, dtype="float32")
    np.testing.assert_allclose(model(TOKENS), expected, atol=1e-4, rtol=0)
    assert np.abs(expected).max() > 0.5

    stored = load_pretrained(path, dtype=dtype)
    save_pretrained(stored, tmp_path / "ours", max_shard_bytes=60_000)
    again = load_pretrained(tmp_path / "ours", dtype=dtype)
    assert again.config == stored.config
    jax.tree.map(np.testing.assert_array_equal, (again.params, again.buffers), (stored.params, stored.buffers))
    np.testing.assert_array_equal(their_logits(tmp_path / "ours"), expected)


_THETA = {"rope_theta": 500.0}
_DEFAULT = {"rope_type": "default"}
ROPES = {
    "parameters": ({"rope_parameters": _LLAMA3 | _THETA}, True),
    "scaling": ({"rope_scaling": _LLAMA3} | _THETA, True),
    "scaling with a theta, which comes first": ({"rope_scaling": _LLAMA3 | _THETA, "rope_theta": 9000.0}, True),
    "parameters with a theta, which comes first": ({"rope_parameters": _LLAMA3 | _THETA, "rope_theta": 9000.0}, True),
    "both, the same": ({"rope_parameters": _LLAMA3 | _THETA, "rope_scaling": _LLAMA3} | _THETA, True),
    "empty scaling": ({"rope_parameters": _LLAMA3 | _THETA, "rope_scaling": {}}, True),
    "no scaling and a theta": (_THETA, True),
    "both, two kinds": ({"rope_parameters": _DEFAULT, "rope_scaling": _LLAMA3}, False),
    "both, two thetas": ({"rope_parameters": _LLAMA3 | _THETA, "rope_scaling": _LLAMA3}, False),
}


@pytest.mark.parametrize("name", ROPES)
def test_rope_as_it_reads_it_or_not_at_all(tmp_path, name):
    """It reads rope_scaling before rope_parameters; where both are there and differ, we refuse to choose."""
    random_model("llama3").save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw = {key: value for key, value in raw.items() if not key.startswith("rope_")}
    fields, is_clear = ROPES[name]
    (tmp_path / "config.json").write_text(json.dumps(raw | fields))
    if is_clear:
        np.testing.assert_allclose(
            load_pretrained(tmp_path, dtype="float32")(TOKENS), their_logits(tmp_path), atol=1e-4
        )
    else:
        with pytest.raises(ValueError, match=r"config\.json: rope_scaling and rope_parameters differ, in "):
            load_pretrained(tmp_path, dtype="float32")


def test_it_too_leaves_out_mtp_layers_that_the_config_does_not_count(tmp_path):
    model = make_model(dataclasses.replace(V3, num_mtp_layers=1))
    params, buffers = shaken(model)
    save_pretrained(Pretrained(model, params, jax.tree.map(abs, buffers)), tmp_path / "mtp")
    raw = json.loads((tmp_path / "mtp" / "config.json").read_text())
    (tmp_path / "mtp" / "config.json").write_text(json.dumps(raw | {"num_nextn_predict_layers": 0}))
    ours = load_pretrained(tmp_path / "mtp", dtype="float32")
    assert ours.config.num_mtp_layers == 0
    np.testing.assert_allclose(ours(TOKENS), their_logits(tmp_path / "mtp"), atol=1e-4, rtol=0)


def test_it_loads_our_mtp_folder_and_its_mtp_layer(tmp_path, monkeypatch):
    import torch
    import transformers
    from transformers.modeling_layers import MtpModel

    family = transformers.DeepseekV3ForCausalLM
    monkeypatch.setattr(
        family, "_keys_to_ignore_on_load_unexpected", [r"model\.layers\.3.*"]
    )  # 61 in the released model
    model = make_model(dataclasses.replace(V3, num_mtp_layers=1))
    params, buffers = shaken(model)
    ours = Pretrained(model, params, jax.tree.map(abs, buffers))
    save_pretrained(ours, tmp_path / "mtp")
    np.testing.assert_allclose(ours(TOKENS), their_logits(tmp_path / "mtp"), atol=1e-4, rtol=0)

    theirs = MtpModel.from_pretrained(family.from_pretrained(tmp_path / "mtp", dtype=torch.float32))  # or it raises
    state = {name: value.numpy() for name, value in theirs.layers[0].state_dict().items()}
    mtp = jax.tree.map(lambda leaf: np.asarray(leaf)[0], params["mtp"])
    np.testing.assert_array_equal(state["eh_proj.weight"], mtp["w_proj_AD"].T)
    np.testing.assert_array_equal(state["enorm.weight"], mtp["embed_norm"]["scale"])
    np.testing.assert_array_equal(state["hnorm.weight"], mtp["hidden_norm"]["scale"])
    np.testing.assert_array_equal(state["post_norm.weight"], mtp["final_norm"]["scale"])
    down = state["mtp_block.mlp.experts.down_proj"]  # [expert, out, in]
    np.testing.assert_array_equal(down, mtp["block"]["ffn"]["w_down_EFD"].swapaxes(1, 2))


def test_converted_by_command_line_there_and_back(tmp_path, capsys):
    random_model("v3 plain").save_pretrained(tmp_path / "made")
    steps = [("made", "bf16", "bfloat16"), ("bf16", "f32", "float32"), ("f32", "again", "bfloat16")]
    for source, target, dtype in steps:
        arguments = ["--from", str(tmp_path / source), "--to", str(tmp_path / target), "--dtype", dtype]
        assert main(arguments) == 0
        assert "MB/s" in capsys.readouterr().out
        assert json.loads((tmp_path / target / "config.json").read_text())["torch_dtype"] == dtype
    first, again = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("bf16", "again"))
    assert first == again
    np.testing.assert_array_equal(their_logits(tmp_path / "bf16"), their_logits(tmp_path / "f32"))
    np.testing.assert_allclose(their_logits(tmp_path / "bf16"), their_logits(tmp_path / "made"), atol=0.2)


def test_it_dequantises_our_fp8_to_the_same_model(tmp_path):
    """Every dim is one block or whole ones: its dequantisation on the CPU cannot do edge blocks."""
    import torch
    import transformers

    model = make_model(dataclasses.replace(V3, num_layers=2, model_dim=256, ffn_dim=384, init_std=0.05))
    params, buffers = shaken(model)
    save_pretrained(Pretrained(model, params, jax.tree.map(abs, buffers)), tmp_path / "fp8", dtype="fp8")
    plain = transformers.FineGrainedFP8Config(dequantize=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "fp8", quantization_config=plain, dtype=torch.float32
    ).float()
    with torch.no_grad():
        expected = theirs(torch.tensor(TOKENS)).logits.numpy()
    np.testing.assert_allclose(load_pretrained(tmp_path / "fp8", dtype="float32")(TOKENS), expected, atol=1e-4, rtol=0)
