"""The tables of names: where each Hugging Face tensor lies in our trees. Each is used both ways.

Hugging Face stores a linear layer as [out, in] with heads merged into one dim; ours have the inputs first and the
heads as a dim of their own, and stack the layers of a kind, and the experts, on leading dims.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping

import jax
import numpy as np

from r1jax.models.config import ModelConfig
from r1jax.models.transformer import make_model

AS_IS = -1  # in place of a number of inputs: the array is stored as ours is
COPY = -2  # the same, and it is a second, physical copy of an array that has another name too

# Hugging Face's name -> (path in our trees, how many leading dims of ours are inputs of the product). "{i}" is the
# layer, "{e}" the expert, "{block}" the stack that the layer is in: dense, moe or mtp/block. A name whose path the
# model lacks (biases, an untied head, a dense layer's experts) does not apply to it.
_COMMON = {
    "model.embed_tokens.weight": ("embed_VD", AS_IS),
    "model.norm.weight": ("final_norm/scale", 0),
    "lm_head.weight": ("unembed_VD", AS_IS),
    "model.layers.{i}.input_layernorm.weight": ("{block}/attention_norm/scale", 0),
    "model.layers.{i}.post_attention_layernorm.weight": ("{block}/ffn_norm/scale", 0),
    "model.layers.{i}.mlp.gate_proj.weight": ("{block}/ffn/w_gate_DF", 1),
    "model.layers.{i}.mlp.up_proj.weight": ("{block}/ffn/w_up_DF", 1),
    "model.layers.{i}.mlp.down_proj.weight": ("{block}/ffn/w_down_FD", 1),
}

# Llama and Qwen2 (spec A.8.2).
HF_DENSE = _COMMON | {
    "model.layers.{i}.self_attn.q_proj.weight": ("{block}/attention/w_q_DNH", 1),
    "model.layers.{i}.self_attn.k_proj.weight": ("{block}/attention/w_k_DJH", 1),
    "model.layers.{i}.self_attn.v_proj.weight": ("{block}/attention/w_v_DJH", 1),
    "model.layers.{i}.self_attn.q_proj.bias": ("{block}/attention/b_q_NH", 0),
    "model.layers.{i}.self_attn.k_proj.bias": ("{block}/attention/b_k_JH", 0),
    "model.layers.{i}.self_attn.v_proj.bias": ("{block}/attention/b_v_JH", 0),
    "model.layers.{i}.self_attn.o_proj.weight": ("{block}/attention/w_o_NHD", 2),
}

# DeepSeek-V2 and V3 (spec A.8.1). Layers from num_layers on are the MTP modules, each with a copy of embedding and head.
HF_DEEPSEEK = _COMMON | {
    "model.layers.{i}.self_attn.q_proj.weight": ("{block}/attention/w_q_DNA", 1),
    "model.layers.{i}.self_attn.q_a_proj.weight": ("{block}/attention/w_dq_DQ", 1),
    "model.layers.{i}.self_attn.q_a_layernorm.weight": ("{block}/attention/q_norm/scale", 0),
    "model.layers.{i}.self_attn.q_b_proj.weight": ("{block}/attention/w_uq_QNA", 1),
    "model.layers.{i}.self_attn.kv_a_proj_with_mqa.weight": ("{block}/attention/w_dkv_DC", 1),
    "model.layers.{i}.self_attn.kv_a_layernorm.weight": ("{block}/attention/kv_norm/scale", 0),
    "model.layers.{i}.self_attn.kv_b_proj.weight": ("{block}/attention/w_ukv_CNA", 1),
    "model.layers.{i}.self_attn.o_proj.weight": ("{block}/attention/w_o_NUD", 2),
    "model.layers.{i}.mlp.gate.weight": ("{block}/ffn/w_router_DE", 1),
    "model.layers.{i}.mlp.gate.e_score_correction_bias": ("{block}/ffn/router_bias_E", 0),
    "model.layers.{i}.mlp.experts.{e}.gate_proj.weight": ("{block}/ffn/w_gate_EDF", 1),
    "model.layers.{i}.mlp.experts.{e}.up_proj.weight": ("{block}/ffn/w_up_EDF", 1),
    "model.layers.{i}.mlp.experts.{e}.down_proj.weight": ("{block}/ffn/w_down_EFD", 1),
    "model.layers.{i}.mlp.shared_experts.gate_proj.weight": ("{block}/ffn/shared/w_gate_DF", 1),
    "model.layers.{i}.mlp.shared_experts.up_proj.weight": ("{block}/ffn/shared/w_up_DF", 1),
    "model.layers.{i}.mlp.shared_experts.down_proj.weight": ("{block}/ffn/shared/w_down_FD", 1),
    "model.layers.{i}.enorm.weight": ("mtp/embed_norm/scale", 0),
    "model.layers.{i}.hnorm.weight": ("mtp/hidden_norm/scale", 0),
    "model.layers.{i}.eh_proj.weight": ("mtp/w_proj_AD", 1),
    "model.layers.{i}.shared_head.norm.weight": ("mtp/final_norm/scale", 0),
    "model.layers.{i}.embed_tokens.weight": ("embed_VD", COPY),
    "model.layers.{i}.shared_head.head.weight": ("unembed_VD", COPY),
}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one Hugging Face tensor lies in our trees."""

    path: tuple[str, ...]  # keys, outermost first: "params" or "buffers", then the parameter's own
    index: tuple[int, ...]  # into the leading dims (layer, expert) of a stacked array
    num_inputs: int  # leading dims of ours that are inputs of the product; 0 for a vector; AS_IS
    shape: tuple[int, ...]  # of our array, without the stacked dims
    is_copy: bool = False  # the array has another name too, and is loaded under that one

    @property
    def _groups(self) -> list[list[int]]:
        """Our dims that each dim of Hugging Face's array merges, in its order: outputs, inputs."""
        dims = list(range(len(self.shape)))
        if self.num_inputs == AS_IS:
            return [[dim] for dim in dims]
        return [group for group in (dims[self.num_inputs :], dims[: self.num_inputs]) if group]

    @property
    def hf_shape(self) -> tuple[int, ...]:
        """Shape of the array in Hugging Face's layout."""
        return tuple(math.prod(self.shape[dim] for dim in group) for group in self._groups)

    def hf_part(self, part: tuple[slice, ...]) -> tuple[slice, ...]:
        """The smallest slices of Hugging Face's array that hold the slices `part` (start and stop) of ours."""
        sizes = [math.prod(self.shape[dim] for dim in group[1:]) for group in self._groups]
        firsts = [part[group[0]] for group in self._groups]
        return tuple(slice(f.start * size, f.stop * size) for f, size in zip(firsts, sizes, strict=True))

    def to_ours(self, array: np.ndarray, part: tuple[slice, ...] | None = None) -> np.ndarray:
        """Our array of Hugging Face's, or the slices `part` of it when `array` is what `hf_part(part)` gives. A view."""
        part = part or tuple(slice(0, size) for size in self.shape)
        shape, inner, order = [], [], []
        for group in self._groups:
            first = part[group[0]]
            shape += [first.stop - first.start, *(self.shape[dim] for dim in group[1:])]
            inner += [slice(None), *(part[dim] for dim in group[1:])]
            order += group
        return array.reshape(shape)[tuple(inner)].transpose(np.argsort(order))

    def fill(self, target: np.ndarray, array: np.ndarray, part: tuple[slice, ...]) -> None:
        """target[...] = to_ours(array, part), cast; for a matrix many times faster."""
        if self.num_inputs > 0 and target.size == array.size and target.flags.c_contiguous:
            _transpose(array, target.reshape(array.shape[1], array.shape[0]))
        else:
            target[...] = self.to_ours(array, part)

    def to_hf(self, array: np.ndarray) -> np.ndarray:
        """Hugging Face's array of ours, contiguous."""
        array = np.ascontiguousarray(array)
        if self.num_inputs <= 0:
            return array.reshape(self.hf_shape)
        rows = np.empty(self.hf_shape, array.dtype)
        _transpose(array.reshape(self.hf_shape[::-1]), rows)
        return rows


def _transpose(source: np.ndarray, target: np.ndarray) -> None:
    """target[...] = source.T, cast. numpy does it at a tenth of the speed of these strips, and types that it does not know
    an element at a time: hence as unsigned integers."""
    bits = f"u{target.dtype.itemsize}"
    for row in range(0, source.shape[0], 16):
        strip = source[row : row + 16].astype(target.dtype, copy=False)
        target.view(bits)[:, row : row + 16] = strip.view(bits).T


def hf_places(config: ModelConfig) -> dict[str, Place]:
    """Every tensor that a Hugging Face checkpoint of `config` holds."""
    table = HF_DEEPSEEK if config.attention == "mla" else HF_DENSE
    trees = dict(zip(("params", "buffers"), make_model(config).abstract(), strict=True))
    leaves = jax.tree_util.tree_leaves_with_path(trees)
    shapes = {tuple(key.key for key in path): leaf.shape for path, leaf in leaves}
    places: dict[str, Place] = {}
    for name, (path, num_inputs) in table.items():
        if "{i}" not in name:
            places |= _places_of(shapes, name, path, (), num_inputs)
    num_dense = config.num_layers - config.num_moe_layers
    for layer in range(config.num_layers + config.num_mtp_layers):
        block, index = ("dense", layer) if layer < num_dense else ("moe", layer - num_dense)
        if layer >= config.num_layers:
            block, index = "mtp/block", layer - config.num_layers
        for name, (path, num_inputs) in table.items():
            if "{block}" in path or ("{i}" in name and layer >= config.num_layers):
                name, path = name.replace("{i}", str(layer)), path.replace("{block}", block)
                places |= _places_of(shapes, name, path, () if num_inputs == COPY else (index,), num_inputs)
    return places


def _places_of(shapes, name: str, path_text: str, index: tuple[int, ...], num_inputs: int) -> dict[str, Place]:
    """The places of a name whose layer is filled in: none if the model lacks the path, else one or one an expert."""
    if num_inputs == COPY and ("params", path_text) not in shapes:
        path_text = "embed_VD"  # tied
    path = next((path for tree in ("params", "buffers") if (path := (tree, *path_text.split("/"))) in shapes), None)
    if path is None:
        return {}
    shape, is_copy = shapes[path], num_inputs == COPY
    if "{e}" in name:
        experts = range(shape[1])
        return {name.replace("{e}", str(e)): Place(path, (*index, e), num_inputs, shape[2:]) for e in experts}
    return {name: Place(path, index, AS_IS if is_copy else num_inputs, shape[len(index) :], is_copy)}


def tensor_faults(shapes: Mapping[str, tuple[int, ...]], places: Mapping[str, Place]) -> list[str]:
    """A line for every tensor that is missing, unknown or misshapen; `shapes` is by Hugging Face's name."""
    faults = [f"missing: {name}" for name in places if name not in shapes]
    faults += [f"unknown: {name}" for name in shapes if name not in places]
    faults += [
        f"{name}: shape {tuple(shapes[name])}, the config needs {place.hf_shape}"
        for name, place in places.items()
        if name in shapes and tuple(shapes[name]) != place.hf_shape
    ]
    return faults


_LISTED = 4  # faults of a kind: a model has tens of thousands of tensors


def raise_faults(source: str, faults: Iterable[str]) -> None:
    """ValueError that lists the faults of `source`, if there are any: the first of each kind, and how many more there are."""
    by_kind: dict[tuple[str, ...], list[str]] = {}
    for fault in faults:  # of a kind: the same words, but for those that name tensors, files and shapes
        kind = tuple(word for word in fault.split() if "=" in word or not re.search(r"[.\d(]", word))
        by_kind.setdefault(kind, []).append(fault)
    lines = []
    for alike in by_kind.values():
        lines += alike[:_LISTED]
        if more := alike[_LISTED:]:
            lines[-1] += f" (and {len(more):,} more such lines)"
    if lines:
        gap = "\n  " if lines[1:] else " "
        raise ValueError(f"{source} does not hold the model of its config:{gap}" + gap.join(lines))
