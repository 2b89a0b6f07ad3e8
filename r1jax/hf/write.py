"""Writes a Hugging Face folder from tensors that come one at a time, whole or not at all."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from r1jax.hf.config import write_config
from r1jax.hf.fp8 import E4M3, QUANTIZATION_CONFIG, SCALE_SUFFIX, is_quantised, quantise, scale_shape
from r1jax.hf.names import hf_places
from r1jax.hf.safetensors_file import Planned, split_shards, write_shards
from r1jax.models.config import ModelConfig
from r1jax.text.tokenizer import Tokenizer

MAX_SHARD_BYTES = 5_000_000_000
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "fp8": E4M3}
_MARGIN = 64 << 20  # bytes besides the weights: tokenizer, index, headers
_BIAS = "e_score_correction_bias"


@dataclasses.dataclass(frozen=True)
class Source:
    """What is to be written.

    config: of the model.
    dtypes: of each tensor, by Hugging Face's name.
    tensors: makes (name, array) pairs in the order of `hf_places`; an FP8 array that is to be kept so is followed by its
      scales.
    tokenizer: or None.
    generation: generation_config.json, or {}.
    """

    config: ModelConfig
    dtypes: Mapping[str, np.dtype]
    tensors: Callable[[], Iterator[tuple[str, np.ndarray]]]
    tokenizer: Tokenizer | None
    generation: Mapping[str, Any]


def write_folder(
    path: Path,
    source: Source,
    *,
    dtype: str | None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> None:
    """Writes to a folder next to `path` and renames it when it is complete. Errors: see `save_pretrained`."""
    path = path.resolve()  # "." and links have no folder of their name next to them
    plan = list(_plan(source, dtype))
    config = _config(source, dtype)
    check_target(path, num_bytes=sum(item.num_bytes for item in plan))
    shards = split_shards(plan, max_shard_bytes=max_shard_bytes)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _write_json(partial / "config.json", config)
        if source.tokenizer is not None:
            source.tokenizer.save(partial)
        if source.generation or not (partial / "generation_config.json").exists():
            _write_json(partial / "generation_config.json", dict(source.generation) or _ids(source))
        write_shards(partial, shards, _converted(source, plan), on_bytes=on_bytes)
        os.rename(partial, path)  # over an empty folder too
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def planned_bytes(source: Source, dtype: str | None) -> int:
    """Bytes of the weights that `write_folder` would write. ValueError: an unknown dtype."""
    return sum(item.num_bytes for item in _plan(source, dtype))


def check_target(path: Path, *, num_bytes: int) -> None:
    """FileExistsError: `path` holds something, is a file or a mount point. OSError: its disk lacks the room."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not an empty folder; name another one")
    if path.is_mount():
        raise FileExistsError(f"{path} is a mount point, which no folder can replace; name a folder in it")
    disk = next(folder for folder in path.absolute().parents if folder.exists())
    free = shutil.disk_usage(disk).free
    if num_bytes + _MARGIN > free:
        raise OSError(f"{path} takes {num_bytes / 1e9:.1f} GB; {disk} has {free / 1e9:.1f} GB free")


def _plan(source: Source, dtype: str | None) -> Iterator[Planned]:
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: must be one of {', '.join(DTYPES)}")
    for name, place in hf_places(source.config).items():
        shape = place.hf_shape
        if name.endswith(_BIAS):
            yield Planned(name, DTYPES["float32"], shape)
        elif dtype == "fp8" and is_quantised(name):
            yield Planned(name, E4M3, shape)
            yield Planned(name + SCALE_SUFFIX, DTYPES["float32"], scale_shape(shape))
        else:
            plain = DTYPES["bfloat16" if dtype == "fp8" else dtype] if dtype else source.dtypes[name]
            yield Planned(name, plain, shape)


def _converted(source: Source, plan: list[Planned]) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors in the types of the plan, scales after their weights."""
    types = {item.name: item.dtype for item in plan}
    for name, array in source.tensors():
        if types[name] == E4M3 != array.dtype:
            stored, scales = quantise(array, name=name)
            yield name, stored
            yield name + SCALE_SUFFIX, scales
        else:
            yield name, array.astype(types[name], copy=False)


def _config(source: Source, dtype: str | None) -> dict[str, Any]:
    embedding = source.dtypes["model.embed_tokens.weight"]
    shell = "bfloat16" if dtype == "fp8" else dtype or embedding.name
    raw = write_config(source.config, dtype=shell) | _ids(source)
    return raw | ({"quantization_config": QUANTIZATION_CONFIG} if dtype == "fp8" else {})


def _ids(source: Source) -> dict[str, Any]:
    """bos_token_id and so on, as the tokenizer has them or, without one, generation_config.json."""
    tokenizer = source.tokenizer
    if tokenizer is None:
        ids = {key: source.generation.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    else:
        ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    return {key: value for key, value in ids.items() if value is not None}


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
