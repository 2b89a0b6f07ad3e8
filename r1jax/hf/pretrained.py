"""A model of a Hugging Face folder, in and out: `load_pretrained`, `save_pretrained`."""

import dataclasses
import functools
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.typing import DTypeLike

from r1jax import sharding
from r1jax.hf.folder import ModelFiles, open_folder
from r1jax.hf.names import Place, hf_places
from r1jax.hf.write import MAX_SHARD_BYTES, write_model
from r1jax.models.config import ModelConfig, dtype_name
from r1jax.models.transformer import Model, make_model
from r1jax.text.tokenizer import Tokenizer

_LOADED_AS = ("float32", "bfloat16", "float16")
_ALIGNMENT = 64  # bytes; XLA's CPU client takes over a numpy array that begins at a multiple of this


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model with its weights. Called with token ids [B, T] it gives the logits [B, T, V] in float32."""

    model: Model  # the pure functions
    params: dict
    buffers: dict  # the router's biases
    tokenizer: Tokenizer | None = None
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """generation_config.json; {}: `save_pretrained` writes the one that came with the tokenizer."""

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def __call__(self, tokens_BT) -> jax.Array:
        """Every row is one sequence without padding. ValueError: the tokens are not whole numbers [B, T]."""
        tokens_BT = jnp.asarray(tokens_BT)
        if tokens_BT.ndim != 2 or not jnp.issubdtype(tokens_BT.dtype, jnp.integer):
            raise ValueError(f"token ids must be whole numbers [B, T], got {tokens_BT.dtype}{list(tokens_BT.shape)}")
        return _logits(self.model, self.params, self.buffers, tokens_BT)


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: Model, params, buffers, tokens_BT):
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    segments_BT = jnp.ones_like(tokens_BT)
    hidden_BTD, *_ = model.hidden(params, buffers, tokens_BT, positions_BT=positions_BT, segments_BT=segments_BT)
    return model.logits(params, hidden_BTD)


def load_pretrained(
    source: str | os.PathLike[str] | ModelFiles,
    *,
    dtype: DTypeLike,
    mesh: Mesh | None = None,
    model: Mapping[str, Any] | None = None,
) -> Pretrained:
    """The model of a Hugging Face folder (DeepSeek-V2/V3, Llama, Qwen2), or of files that are open already.

    Each array is filled a device's shard at a time, one tensor after another, of which only the rows that the shard
    needs are read: a host needs room for its own shards and one tensor. FP8 weights are dequantised on the way.

    dtype: of the parameters and, unless `model` says otherwise, of the activations: float32, bfloat16 or float16, as
      text or as a type of numpy or jax. Buffers are float32.
    mesh: where the arrays go, laid out by `r1jax.sharding`; without one, the first device.
    model: fields of ModelConfig that are to differ from the folder's ("remat", "dtype", "yarn").

    Errors: those of `r1jax.hf.folder.open_folder`; ValueError for an unknown dtype, or for fields of `model` that
    change the shapes of weights. All come before anything is allocated; that an FP8 scale is not finite, when it is
    read.
    """
    dtype = dtype_name(dtype)
    if dtype not in _LOADED_AS:
        raise ValueError(f"dtype={dtype!r}: must be one of {', '.join(_LOADED_AS)}")
    files = source if isinstance(source, ModelFiles) else open_folder(source)
    pure = make_model(ModelConfig.from_dict(dataclasses.asdict(files.config) | {"dtype": dtype} | dict(model or {})))
    if pure.abstract() != make_model(files.config).abstract():
        raise ValueError(f"model={dict(model or {})} gives the weights other shapes than {files.path} has")
    shapes = dict(zip(("params", "buffers"), pure.abstract(), strict=True))
    axes = dict(zip(("params", "buffers"), pure.logical_axes(), strict=True))
    by_path: dict[tuple[str, ...], list[tuple[str, Place]]] = {}
    for name, place in files.places.items():
        if not place.is_copy:
            by_path.setdefault(place.path, []).append((name, place))

    def load(key_path, leaf_axes, leaf):
        keys = tuple(key.key for key in key_path)
        leaf_dtype = np.dtype(jnp.dtype(dtype)) if keys[0] == "params" else np.dtype(np.float32)
        layout = SingleDeviceSharding(jax.local_devices()[0])
        if mesh is not None:
            spec = sharding.partition_spec(leaf_axes, leaf.shape, mesh, name="/".join(keys))
            layout = NamedSharding(mesh, spec)
        return _load_array(files, by_path[keys], leaf.shape, leaf_dtype, layout)

    trees = jax.tree_util.tree_map_with_path(load, axes, shapes, is_leaf=lambda node: isinstance(node, tuple))
    return Pretrained(pure, trees["params"], trees["buffers"], files.tokenizer, files.generation)


def _load_array(files: ModelFiles, places, shape, dtype: np.dtype, layout) -> jax.Array:
    """One array of ours from the tensors at `places`, a device's shard at a time; replicas share the host's copy."""
    by_bounds: dict[tuple[tuple[int, int], ...], list] = {}
    for device, index in layout.addressable_devices_indices_map(shape).items():
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
        by_bounds.setdefault(bounds, []).append(device)
    shards = []
    for bounds, devices in by_bounds.items():
        index = tuple(slice(*pair) for pair in bounds)
        host = _aligned_empty(tuple(part.stop - part.start for part in index), dtype)
        for name, place in places:
            num_stacked = len(place.index)
            stack, part = index[:num_stacked], index[num_stacked:]
            if all(s.start <= i < s.stop for s, i in zip(stack, place.index, strict=True)):
                target = host[tuple(i - s.start for s, i in zip(stack, place.index, strict=True))]
                place.fill(target, files.read(name, place.hf_part(part)), part)
        shards += jax.block_until_ready([jax.device_put(host, device) for device in devices])  # then `host` is free
    return jax.make_array_from_single_device_arrays(shape, layout, shards)


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + num_bytes].view(dtype).reshape(shape)


def _host_array(leaf: Any, index: tuple[int, ...]) -> np.ndarray:
    """leaf[index] on the host, without a copy of the rest."""
    devices = leaf.devices()
    if len(devices) == 1 and next(iter(devices)).platform == "cpu":
        return np.asarray(leaf)[index]  # a view
    return np.asarray(leaf[index] if index else leaf)


def save_pretrained(
    model: Pretrained,
    path: str | os.PathLike[str],
    *,
    dtype: DTypeLike | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes a folder that transformers, vLLM and SGLang load: config.json, weights, tokenizer, generation_config.json.

    The folder appears when it is complete; one tensor at a time is held in memory. Nothing is left behind by an error.

    dtype: of the weights on disk: float32, bfloat16 (as text or as a type) or "fp8" (as DeepSeek's: projections in 128
      × 128 blocks, the rest bfloat16); None keeps the parameters' own. The router's bias is float32 in any case.
    max_shard_bytes: a file is larger only if its one tensor is.

    FileExistsError: the folder holds something, or is a mount point. OSError: too little room on the disk. ValueError:
    the config is in no family; arrays are spread over several hosts; a weight that is not finite cannot be FP8.
    """
    for leaf in jax.tree.leaves((model.params, model.buffers)):
        if not leaf.is_fully_addressable:
            raise ValueError("save_pretrained: the arrays are spread over several hosts; gather them on one first")
    places = hf_places(model.config)
    trees: Any = {"params": model.params, "buffers": model.buffers}
    leaves = {place.path: functools.reduce(operator.getitem, place.path, trees) for place in places.values()}

    write_model(
        Path(path),
        model.config,
        read=lambda name: places[name].to_hf(_host_array(leaves[places[name].path], places[name].index)),
        dtypes={name: np.dtype(leaves[place.path].dtype) for name, place in places.items()},
        tokenizer=model.tokenizer,
        generation=model.generation,
        dtype=None if dtype is None else dtype_name(dtype),
        max_shard_bytes=max_shard_bytes,
    )
