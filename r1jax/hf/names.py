"""The one table of names: where each Hugging Face (or GGUF) tensor lies in our parameter tree. Used both ways.

Hugging Face stores a linear layer as [out, in] with heads merged into one dim; ours have the inputs first and the
heads as a dim of their own, and stack the layers of a kind on a leading dim.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from r1jax.models.config import ModelConfig
from r1jax.models.transformer import make_model

AS_IS = -1
"""In place of a number of inputs: the array is stored as ours is."""

# Hugging Face's name -> (path in params, how many leading dims of ours are inputs of the product). Llama and Qwen2
# (spec A.8.2); "{i}" is the layer. A name whose path the model lacks (biases, an untied head) does not apply to it.
HF_DENSE = {
    "model.embed_tokens.weight": ("embed_VD", AS_IS),
    "model.norm.weight": ("final_norm/scale", 0),
    "lm_head.weight": ("unembed_VD", AS_IS),
    "model.layers.{i}.input_layernorm.weight": ("dense/attention_norm/scale", 0),
    "model.layers.{i}.self_attn.q_proj.weight": ("dense/attention/w_q_DNH", 1),
    "model.layers.{i}.self_attn.k_proj.weight": ("dense/attention/w_k_DJH", 1),
    "model.layers.{i}.self_attn.v_proj.weight": ("dense/attention/w_v_DJH", 1),
    "model.layers.{i}.self_attn.q_proj.bias": ("dense/attention/b_q_NH", 0),
    "model.layers.{i}.self_attn.k_proj.bias": ("dense/attention/b_k_JH", 0),
    "model.layers.{i}.self_attn.v_proj.bias": ("dense/attention/b_v_JH", 0),
    "model.layers.{i}.self_attn.o_proj.weight": ("dense/attention/w_o_NHD", 2),
    "model.layers.{i}.post_attention_layernorm.weight": ("dense/ffn_norm/scale", 0),
    "model.layers.{i}.mlp.gate_proj.weight": ("dense/ffn/w_gate_DF", 1),
    "model.layers.{i}.mlp.up_proj.weight": ("dense/ffn/w_up_DF", 1),
    "model.layers.{i}.mlp.down_proj.weight": ("dense/ffn/w_down_FD", 1),
}

# llama.cpp's name -> Hugging Face's.
GGUF_LLAMA = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "blk.{i}.attn_norm.weight": "model.layers.{i}.input_layernorm.weight",
    "blk.{i}.attn_q.weight": "model.layers.{i}.self_attn.q_proj.weight",
    "blk.{i}.attn_k.weight": "model.layers.{i}.self_attn.k_proj.weight",
    "blk.{i}.attn_v.weight": "model.layers.{i}.self_attn.v_proj.weight",
    "blk.{i}.attn_output.weight": "model.layers.{i}.self_attn.o_proj.weight",
    "blk.{i}.ffn_norm.weight": "model.layers.{i}.post_attention_layernorm.weight",
    "blk.{i}.ffn_gate.weight": "model.layers.{i}.mlp.gate_proj.weight",
    "blk.{i}.ffn_up.weight": "model.layers.{i}.mlp.up_proj.weight",
    "blk.{i}.ffn_down.weight": "model.layers.{i}.mlp.down_proj.weight",
}


def gguf_to_hf(name: str) -> str:
    """Hugging Face's name of a GGUF tensor of the Llama architecture; a name not in the table comes back unchanged."""
    layer = re.match(r"blk\.(\d+)\.", name)
    pattern = f"blk.{{i}}.{name[layer.end() :]}" if layer else name
    return GGUF_LLAMA[pattern].replace("{i}", layer[1] if layer else "") if pattern in GGUF_LLAMA else name


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one Hugging Face tensor lies in our tree.

    path: keys of the parameter tree, outermost first.
    layer: index into the leading dim of a stacked array, or None.
    num_inputs: leading dims of ours that are inputs of the product; 0 for a vector; AS_IS.
    shape: shape of our array, without the stacked dim.
    """

    path: tuple[str, ...]
    layer: int | None
    num_inputs: int
    shape: tuple[int, ...]

    @property
    def hf_shape(self) -> tuple[int, ...]:
        """Shape of the array in Hugging Face's layout."""
        if self.num_inputs == AS_IS:
            return self.shape
        if self.num_inputs == 0:
            return (math.prod(self.shape),)
        return math.prod(self.shape[self.num_inputs :]), math.prod(self.shape[: self.num_inputs])

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        return (array.T if self.num_inputs > 0 else array).reshape(self.shape)

    def to_hf(self, array: np.ndarray) -> np.ndarray:
        return (
            np.ascontiguousarray(array.reshape(self.hf_shape[::-1]).T)
            if self.num_inputs > 0
            else array.reshape(self.hf_shape)
        )


def hf_places(config: ModelConfig) -> dict[str, Place]:
    """Every tensor that a Hugging Face checkpoint of `config` holds. ValueError: the family has no table."""
    if config.attention != "gqa" or config.num_experts:
        raise ValueError("only dense models with GQA have a name table; this config has MLA or experts")
    params, _ = make_model(config).abstract()
    places = {}
    for pattern, (path_text, num_inputs) in HF_DENSE.items():
        path = tuple(path_text.split("/"))
        if not _contains(params, path):
            continue
        shape = _at(params, path).shape
        if "{i}" not in pattern:
            places[pattern] = Place(path, None, num_inputs, shape)
        else:
            places |= {pattern.replace("{i}", str(i)): Place(path, i, num_inputs, shape[1:]) for i in range(shape[0])}
    return places


def check_tensors(shapes: Mapping[str, tuple[int, ...]], config: ModelConfig, *, source: str) -> None:
    """ValueError lists every tensor that is missing from, unknown to or misshapen for `config`; allocates nothing.

    shapes: Hugging Face name -> shape in `source`, which the message names.
    """
    places = hf_places(config)
    faults = [f"missing: {name}" for name in places if name not in shapes]
    faults += [f"unknown: {name}" for name in shapes if name not in places]
    faults += [
        f"{name}: shape {tuple(shapes[name])}, the config needs {place.hf_shape}"
        for name, place in places.items()
        if name in shapes and tuple(shapes[name]) != place.hf_shape
    ]
    if faults:
        raise ValueError(f"{source} does not hold the model of its config:\n  " + "\n  ".join(faults))


def params_from_hf(tensors: Iterable[tuple[str, np.ndarray]], config: ModelConfig) -> dict:
    """Our parameter tree, numpy float32, from (Hugging Face name, array) pairs that `check_tensors` has passed."""
    places = hf_places(config)
    abstract, _ = make_model(config).abstract()
    params = _map_tree(abstract, lambda leaf: np.empty(leaf.shape, np.float32))
    for name, array in tensors:
        place = places[name]
        target = _at(params, place.path)
        target[... if place.layer is None else place.layer] = place.to_ours(array)
    return params


def params_to_hf(params: Mapping, config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """(Hugging Face name, array in its layout and our type) for every tensor of `config`."""
    for name, place in hf_places(config).items():
        leaf = _at(params, place.path)
        yield name, place.to_hf(np.asarray(leaf if place.layer is None else leaf[place.layer]))


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _contains(tree: Mapping, path: tuple[str, ...]) -> bool:
    for key in path:
        if key not in tree:
            return False
        tree = tree[key]
    return True


def _map_tree(tree: Any, function: Callable[[Any], Any]) -> Any:
    return {k: _map_tree(v, function) for k, v in tree.items()} if isinstance(tree, Mapping) else function(tree)
