"""A Hugging Face folder, opened and checked: what is wrong with it comes as one error, before anything is loaded."""

import dataclasses
import functools
import json
import math
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from r1jax.hf.config import read_config
from r1jax.hf.fp8 import E4M3, SCALE_SUFFIX, dequantise, quantisation_faults, scale_shape
from r1jax.hf.names import Place, hf_places, raise_faults, tensor_faults
from r1jax.hf.safetensors_file import INDEX, SINGLE, Stored, read_header
from r1jax.models.config import ModelConfig
from r1jax.text.tokenizer import Tokenizer

_CHUNK = 1 << 26  # bytes compared at a time
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack")
_OTHER_FOLDERS = {
    "adapter_config.json": "it holds an adapter (LoRA), which must be merged into its model first",
    "model.json": "it is the work directory of a stage, which must be exported first",
    "refs/main": "it is the hub's cache of a model; name the folder in its snapshots/",
}
"""What shows that a folder is something else, and what that is."""
_HUB_ID = re.compile(r"(?:\w+:/+)?(?:huggingface\.co/)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)")


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """A folder, or a GGUF file, that holds what its config says."""

    path: Path
    config: ModelConfig  # with the MTP depths that config.json and files agree on; `dtype` and `remat` are the defaults
    generation: dict[str, Any]  # generation_config.json as it is; {} without one
    tokenizer: Tokenizer | None  # None without a tokenizer.json
    places: dict[str, Place]  # of every tensor in our trees, by Hugging Face's name
    stored: Mapping[str, Stored]  # every tensor on disk, by the same name; FP8 scales as `<name>_scale_inv`

    def read(self, name: str, part: tuple[slice, ...] | None = None) -> np.ndarray:
        """The slices `part` of a tensor in Hugging Face's layout, in the file's type or dequantised to float32.

        ValueError: a scale is not finite.
        """
        stored = self.stored[name]
        if stored.dtype != E4M3:
            return stored.read(part)
        scales = self.stored[name + SCALE_SUFFIX].read().astype(np.float32)
        if not np.isfinite(scales).all():
            raise ValueError(f"{stored.file.parent}: {name}{SCALE_SUFFIX} holds a value that is not finite")
        return dequantise(stored.read(part), scales, part)


def open_folder(
    path: str | os.PathLike[str], *, needs_tokenizer: bool = False, compares_copies: bool = True
) -> ModelFiles:
    """Opens and checks a folder.

    compares_copies: False reads no weight, and takes a second or two for hundreds of gigabytes; then only what the
      weights themselves say is not known: that copies of the embedding are copies, and that FP8 scales are finite.

    FileNotFoundError: no folder (a name of the hub is none), or not one of a model. ValueError, with a line for each
    fault (a few of each kind): of config.json, the index, the files, the tokenizer, or its absence where it is needed;
    and, where all files can be read, of the tensors: missing, unknown, misshapen, of another type, FP8 without scale or
    a scale without weight, the MTP layer's copies of embedding and head unlike the originals.

    MTP layers that config.json does not count are left out, as in transformers; a line on stderr says so.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(_no_folder(path))
    other = next((text for name, text in _OTHER_FOLDERS.items() if (path / name).exists()), None)
    if other or not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path} is not a Hugging Face model folder: {other or 'config.json is missing'}")
    faults: list[str] = []
    raw = _read_object(path / "config.json", faults)
    config, of_config = (None, []) if faults else read_config(raw)
    faults += of_config + quantisation_faults(raw.get("quantization_config"))
    has_generation = (path / "generation_config.json").is_file()
    generation = _read_object(path / "generation_config.json", faults) if has_generation else {}
    tokenizer = None
    if needs_tokenizer or (path / "tokenizer.json").is_file():
        try:
            tokenizer = Tokenizer.load(path)
        except (ValueError, OSError) as error:
            faults.append(str(error))
    stored, of_files = _read_files(path)
    faults += of_files
    places: dict[str, Place] = {}
    if config is not None:
        if not of_files:
            config = _with_mtp_depths(config, stored, source=path)
            places = hf_places(config)
        try:
            if tokenizer is not None:
                tokenizer.check_fits(config.vocab_size)
        except ValueError as error:
            faults.append(f"tokenizer.json: {error}")
        if not of_files:
            faults += _tensor_faults(stored, places, config, compares_copies=compares_copies)
    raise_faults(str(path), faults)
    assert config is not None  # else there were faults
    return ModelFiles(path, config, generation, tokenizer, places, stored)


def _no_folder(path: Path) -> str:
    """What to say of a path that is no folder; it may be the name of a model on the hub."""
    if path.is_file():
        return f"{path} is a file, and a Hugging Face model is a folder"
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    if not (match := _HUB_ID.fullmatch(str(shown))):
        return f"there is no folder {path}"
    name = match[1]
    return (
        f"there is no folder {path}, and only folders on this machine are read; a model of the Hugging Face hub comes with: "
        f"hf download {name} --local-dir models/{name.split('/')[1]}"
    )


def _with_mtp_depths(config: ModelConfig, stored: dict[str, Stored], *, source: Path) -> ModelConfig:
    """The config with as many MTP depths as it and the files have; what the files have beyond is taken out of `stored`."""
    first = config.num_layers
    if not any(name.startswith(f"model.layers.{first}.") for name in stored):
        return dataclasses.replace(config, num_mtp_layers=0)  # transformers counts the layers and does not write them
    beyond = first + config.num_mtp_layers
    if config.attention == "mla" and f"model.layers.{beyond}.eh_proj.weight" in stored:
        layers = {name: re.match(r"model\.layers\.(\d+)\.", name) for name in stored}
        ignored = [name for name, layer in layers.items() if layer and int(layer[1]) >= beyond]
        for name in ignored:
            del stored[name]
        _warn_once(
            f"{source}: {len(ignored)} tensors of MTP layers are left out, since config.json has "
            f"num_nextn_predict_layers={config.num_mtp_layers}"
        )
    return config


@functools.cache
def _warn_once(text: str) -> None:
    """A run opens a folder several times."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def _read_object(file: Path, faults: list[str]) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
        faults.append(f"{file.name}: it holds no JSON object")
    except (ValueError, RecursionError) as error:
        faults.append(f"{file.name}: it is not JSON: {error}")
    return {}


def _read_files(path: Path) -> tuple[dict[str, Stored], list[str]]:
    """(tensors by name, faults)."""
    faults: list[str] = []
    weight_map: dict[str, str] = {}
    if (path / INDEX).is_file():
        weight_map = _read_object(path / INDEX, faults).get("weight_map", {})
        if (
            not weight_map
            or not isinstance(weight_map, dict)
            or not all(isinstance(name, str) for name in weight_map.values())
        ):
            return {}, [*faults, f"{INDEX}: it has no weight_map from tensors to files"]
        file_names = sorted(set(weight_map.values()))
        if (path / SINGLE).is_file() and SINGLE not in file_names:
            faults.append(
                f"there are both {SINGLE} and {INDEX}, which does not name it; remove the one that is not meant"
            )
    elif (path / SINGLE).is_file():
        file_names = [SINGLE]
    else:
        others = sorted(file.name for file in path.iterdir() if file.suffix in _OTHER_WEIGHTS)
        shown = f"; {others[0]} is in another format: load and save it with transformers" if others else ""
        return {}, [f"there is neither {SINGLE} nor {INDEX}{shown}"]
    stored: dict[str, Stored] = {}
    readable: set[str] = set()
    for file_name in file_names:
        if Path(file_name).name != file_name:
            faults.append(f"{INDEX}: {file_name!r} is not the name of a file in the folder")
        elif not (path / file_name).is_file():
            faults.append(f"{INDEX}: it names {file_name}, which is absent")
        else:
            tensors, of_file = read_header(path / file_name)
            faults += of_file
            faults += [f"{file_name}: {name} is also in {stored[name].file.name}" for name in tensors if name in stored]
            stored |= tensors
            if tensors or not of_file:
                readable.add(file_name)
    faults += [
        f"{INDEX}: it says that {name} is in {file_name}, which does not hold it"
        for name, file_name in weight_map.items()
        if file_name in readable and (name not in stored or stored[name].file.name != file_name)
    ]
    return stored, faults


def _tensor_faults(
    stored: dict[str, Stored], places: dict[str, Place], config: ModelConfig, *, compares_copies: bool
) -> list[str]:
    weights = {
        name: item for name, item in stored.items() if not name.endswith(SCALE_SUFFIX) and not _is_idle(name, item)
    }
    tied_head = config.tie_embeddings and weights.pop("lm_head.weight", None)
    faults = tensor_faults({name: item.shape for name, item in weights.items()}, places)
    for name, item in weights.items():
        scale = stored.get(name + SCALE_SUFFIX)
        if item.dtype.name == "float8_e8m0fnu":
            faults.append(f"{name}: type F8_E8M0 holds scales, not weights")
        elif item.dtype == E4M3:
            if scale is None:
                faults.append(f"{name}: FP8 without its scales {name}{SCALE_SUFFIX}")
            elif len(item.shape) != 2:
                faults.append(f"{name}: FP8 of {len(item.shape)} dims; only matrices have scales by block")
            elif scale.shape != scale_shape(item.shape):
                faults.append(f"{name}{SCALE_SUFFIX}: shape {scale.shape}, the weight needs {scale_shape(item.shape)}")
        elif scale is not None:
            faults.append(f"{name}: it has scales {name}{SCALE_SUFFIX} but is not FP8")
    for name in stored:
        if name.endswith(SCALE_SUFFIX) and name.removesuffix(SCALE_SUFFIX) not in stored:
            faults.append(f"{name}: scales without their weight")
    if compares_copies and not faults:
        copies = [("lm_head.weight", "model.embed_tokens.weight")] if tied_head else []
        originals = {place.path: name for name, place in places.items() if not place.is_copy}
        copies += [(name, originals[place.path]) for name, place in places.items() if place.is_copy]
        faults += [
            f"{copy} differs from {original}, of which it must be a copy"
            for copy, original in copies
            if not _are_equal(stored[copy], stored[original])
        ]
    return faults


def _is_idle(name: str, item: Stored) -> bool:
    """What some writers add and no model needs: cached RoPE frequencies, the weights of zero shared experts."""
    return name.endswith("rotary_emb.inv_freq") or 0 in item.shape


def _are_equal(a: Stored, b: Stored) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    columns = tuple(slice(0, size) for size in a.shape[1:])
    rows = max(1, _CHUNK // max(1, math.prod(a.shape[1:]) * a.dtype.itemsize))
    for start in range(0, a.shape[0], rows):
        part = (slice(start, min(start + rows, a.shape[0])), *columns)
        if not np.array_equal(a.read(part).view(np.uint8), b.read(part).view(np.uint8)):
            return False
    return True
