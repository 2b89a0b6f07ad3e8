"""Writes a Hugging Face folder from tensors that come one at a time, whole or not at all."""

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
from r1jax.hf.safetensors_file import Planned, split_shards, write_files
from r1jax.models.config import ModelConfig
from r1jax.text.tokenizer import Tokenizer

MAX_SHARD_BYTES = 5_000_000_000
WEIGHT_TYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "fp8": E4M3}
_MARGIN = 64 << 20  # bytes besides the weights: tokenizer, index, headers
_BIAS = "e_score_correction_bias"


def write_model(
    path: Path,
    config: ModelConfig,
    *,
    read: Callable[[str], np.ndarray | tuple[np.ndarray, np.ndarray]],
    dtypes: Mapping[str, np.dtype],
    tokenizer: Tokenizer | None,
    generation: Mapping[str, Any],
    dtype: str | None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> int:
    """Writes to a folder next to `path` and renames it when it is complete; returns the bytes of the weights.

    read: the array of a Hugging Face name; or an FP8 array that is to be kept so, and its scales. dtypes: by the same
    name.
    generation: generation_config.json, or {}. dtype, errors: see `save_pretrained`.
    """
    path = path.resolve()  # "." and links have no folder of their name next to them
    plan = list(_plan(config, dtypes, dtype))
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    values = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) if tokenizer else map(generation.get, names)
    ids = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    plain = "bfloat16" if dtype == "fp8" else dtype or dtypes["model.embed_tokens.weight"].name
    raw = write_config(config, dtype=plain) | ids
    raw |= {"quantization_config": QUANTIZATION_CONFIG} if dtype == "fp8" else {}
    total = sum(item.num_bytes for item in plan)
    check_target(path, num_bytes=total)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _write_json(partial / "config.json", raw)
        if tokenizer is not None:
            tokenizer.save(partial)
        if generation or not (partial / "generation_config.json").exists():
            _write_json(partial / "generation_config.json", generation or ids)
        write_files(partial, split_shards(plan, max_shard_bytes=max_shard_bytes), _converted(read, plan))
        os.rename(partial, path)  # over an empty folder too
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return total


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


def _plan(config: ModelConfig, dtypes: Mapping[str, np.dtype], dtype: str | None) -> Iterator[Planned]:
    if dtype is not None and dtype not in WEIGHT_TYPES:
        raise ValueError(f"dtype={dtype!r}: must be one of {', '.join(WEIGHT_TYPES)}")
    for name, place in hf_places(config).items():
        shape = place.hf_shape
        if name.endswith(_BIAS):
            yield Planned(name, WEIGHT_TYPES["float32"], shape)
        elif dtype == "fp8" and is_quantised(name):
            yield Planned(name, E4M3, shape)
            yield Planned(name + SCALE_SUFFIX, WEIGHT_TYPES["float32"], scale_shape(shape))
        else:
            plain = WEIGHT_TYPES["bfloat16" if dtype == "fp8" else dtype] if dtype else dtypes[name]
            yield Planned(name, plain, shape)


def _converted(read: Callable, plan: list[Planned]) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors in the types of the plan, scales after their weights."""
    types = {item.name: item.dtype for item in plan}
    for name in types:
        if name.endswith(SCALE_SUFFIX):
            continue
        array = read(name)
        if types[name] == E4M3:
            array, scales = array if isinstance(array, tuple) else quantise(array, name=name)
            yield name, array
            yield name + SCALE_SUFFIX, scales
        else:
            yield name, array.astype(types[name], copy=False)


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(dict(value), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
