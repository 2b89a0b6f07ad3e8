"""One device's part of a pass over tokens: its rows, heads and experts, what it keeps and what it exchanges with other
devices.

What the forward pass keeps for the backward one JAX gives exactly: the arrays that ``jax.vjp`` closes over, under
whatever ``remat`` says, traced for the mesh's devices, so that they are those of the kernels. How XLA lays them out is
not in the trace: what is computed within ``shard_map`` is taken to be split over all devices; the rest follows the
tokens, and heads and widths "tensor".
"""

import collections
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.kernels.hardware import LANES
from r1jax.models.config import ModelConfig
from r1jax.models.expert_parallel import max_destinations
from r1jax.models.transformer import Model
from r1jax.plan.program import Exchange
from r1jax.sharding import Role, axes_of, partition_spec


@dataclasses.dataclass(frozen=True)
class Local:
    """A pass of ``model`` over [rows, length] tokens on ``mesh``, laid out by the rules of ``role``."""

    model: Model
    mesh: Any  # a Mesh or AbstractMesh, of TPUs that need not be here
    rows: int
    length: int
    role: Role = "train"

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def itemsize(self) -> int:
        """Bytes of an activation."""
        return jnp.dtype(self.config.dtype).itemsize

    def axes(self, logical: str, size: int) -> tuple[str, ...]:
        """Mesh axes of more than one device that split a dim."""
        return axes_of(partition_spec((logical,), (size,), self.mesh, role=self.role)[0])

    def parts(self, logical: str, size: int) -> int:
        """Into how many parts a dim is split."""
        return self.num_devices(self.axes(logical, size))

    def num_devices(self, axes) -> int:
        """Devices along mesh axes."""
        return math.prod(self.mesh.shape[axis] for axis in axes)

    @property
    def sequence_parts(self) -> int:
        return self.parts("length", self.length)

    @property
    def keys(self) -> int:
        """Tokens whose keys a device has while it attends: those of its rows."""
        return self.rows // self.parts("batch", self.rows) * self.length

    @property
    def tokens(self) -> int:
        return self.keys // self.sequence_parts

    @property
    def heads(self) -> int:
        return self.config.num_heads // self.parts("heads", self.config.num_heads)

    def attention_width(self) -> tuple[int, int]:
        """(numbers of a query and its output, of a key and its value), all of a device's heads."""
        c = self.config
        if c.attention == "mla":
            qk = c.nope_head_dim + c.rope_head_dim
            return self.heads * (qk + c.value_head_dim), self.heads * (c.nope_head_dim + c.value_head_dim)
        kv_heads = c.num_kv_heads // self.parts("kv_heads", c.num_kv_heads)
        return 2 * self.heads * c.head_dim, 2 * kv_heads * c.head_dim

    def result_width(self) -> int:
        """Numbers of attention's result in the kernel, all of a device's heads: each of MLA's fills whole tiles of lanes."""
        c = self.config
        return self.heads * (-(-c.value_head_dim // LANES) * LANES if c.attention == "mla" else c.head_dim)

    @property
    def spread(self) -> tuple[str, ...]:
        """Mesh axes that split the experts."""
        return self.axes("experts", self.config.num_experts)

    @property
    def moved(self) -> int:
        """Devices among which tokens travel to their experts."""
        split = {*self.axes("batch", self.rows), *self.axes("length", self.length)}
        return self.num_devices(axis for axis in self.spread if axis in split)

    @property
    def is_exchanged(self) -> bool:
        """Does a token go only to the devices of its experts, rather than to all?"""
        way = self.config.expert_parallel
        return way.endswith("all_to_all") and self.moved == self.num_devices(self.spread) > 1

    @property
    def routed_rows(self) -> int:
        """Rows for which a device has room; a row is a token for one of its experts."""
        c = self.config
        most = self.tokens * self.moved * c.num_experts_per_token
        if c.expert_parallel == "auto":
            return most
        return min(math.ceil(c.expert_capacity * most / self.num_devices(self.spread)), most)

    @property
    def routed_bytes(self) -> int:
        """Bytes of the routed rows at the model's width; float32 where tokens are exchanged, since their sums are."""
        return self.routed_rows * self.config.model_dim * (4 if self.num_devices(self.spread) > 1 else self.itemsize)

    @property
    def expert_weights(self) -> int:
        """Numbers of a layer's routed experts, gathered on a device."""
        c = self.config
        width = c.expert_ffn_dim // self.parts("mlp", c.expert_ffn_dim)
        return 3 * c.num_experts // self.num_devices(self.spread) * c.model_dim * width

    def expert_exchanges(self, *, passes: int, has_gradients: bool) -> list[Exchange]:
        """Of all layers: tokens out and sums back in ``passes`` forward passes, and the reverse in a backward one.

        Where tokens go to all devices, so do their experts and weights, and sums come back in float32.
        """
        c, layers = self.config, self.config.num_moe_layers
        if not layers or self.moved == 1:
            return []
        row, backward = c.model_dim * self.itemsize, int(has_gradients)
        if self.is_exchanged:
            copies = max_destinations(c, self.moved)
            room = c.expert_capacity * copies if c.expert_parallel == "all_to_all" else copies
            calls = 2 * (passes + backward) * layers
            return [Exchange("all-to-all", calls * self.tokens * room * row, self.moved, False, calls)]
        rows, sums, chosen = layers * self.tokens * self.moved, 4 * c.model_dim, 4 * c.num_experts_per_token
        gathered, split = passes * (row + 2 * chosen) + backward * sums, passes * sums + backward * (row + chosen)
        calls = (passes + backward) * layers
        return [
            Exchange("all-gather", rows * gathered, self.moved, False, calls),
            Exchange("reduce-scatter", rows * split, self.moved, False, calls),
        ]

    def weight_exchanges(self, *, has_gradients: bool) -> list[Exchange]:
        """Parameters are gathered in the type of the activations and, in training, gathered again and their gradients
        summed.

        A layer's weights are gathered over the axes that split their "embed" or "latent"; the gradient is summed and
        split over the same axes, then summed over the other axes that split the tokens.
        """
        params, axes = self.model.abstract()[0], self.model.logical_axes()[0]
        tokens = {*self.axes("batch", self.rows), *self.axes("length", self.length)}
        stay = {*self.spread, *self.axes("heads", self.config.num_heads)}
        sizes: dict[tuple[str, int], float] = collections.defaultdict(float)
        leaves = jax.tree.leaves(params)
        for names, leaf in zip(jax.tree.leaves(axes, is_leaf=lambda a: isinstance(a, tuple)), leaves, strict=True):
            spec = partition_spec(names, leaf.shape, self.mesh, role=self.role)
            split = {axis for entry in spec for axis in axes_of(entry)}
            gathered = {a for a in split if a in tokens and not ("experts" in names and a in stay)}
            whole, group = leaf.size / self.num_devices(split - gathered) * self.itemsize, self.num_devices(gathered)
            sizes["all-gather", group] += (1 + has_gradients) * whole
            if has_gradients:
                sizes["reduce-scatter", group] += whole
                sizes["all-reduce", self.num_devices(tokens - split)] += leaf.size / self.num_devices(split) * 4
        return [Exchange(kind, size, group, True) for (kind, group), size in sizes.items() if group > 1]

    def activation_exchanges(self, *, passes: int, has_gradients: bool) -> list[Exchange]:
        """Sums over "tensor" after attention and feed-forward; over "sequence" keys are gathered, and halves of queries
        and results are swapped with the mirrored part.

        passes: forward passes through the layers; a backward pass has as many sums and swaps as one of them.
        """
        c, layers, exchanges = self.config, self.config.num_layers, []
        if (tensor := self.parts("heads", c.num_heads)) > 1:
            times = 2 * layers * (passes + has_gradients)
            size = self.tokens * c.model_dim * self.itemsize
            exchanges.append(Exchange("all-reduce", times * size, tensor, False, times))
        if (parts := self.sequence_parts) > 1:
            cached = c.kv_lora_rank + c.rope_head_dim if c.attention == "mla" else self.attention_width()[1]
            latent = layers * self.keys * cached * self.itemsize
            exchanges.append(Exchange("all-gather", passes * latent, parts, False, passes * layers))
            if has_gradients:
                exchanges.append(Exchange("reduce-scatter", latent, parts, False, layers))
            half, calls = self.tokens / 2 * self.attention_width()[0] * self.itemsize, (passes + has_gradients) * layers
            exchanges.append(Exchange("collective-permute", calls * half, parts, False, calls))
        return exchanges

    def saved_bytes(self) -> int:
        """Bytes that the device keeps for the backward pass, without the parameters."""
        params, buffers = self.model.abstract()
        tokens_BT = jax.ShapeDtypeStruct((self.rows, self.length), jnp.int32)

        def kept(params, buffers, tokens_BT):
            layout = {"positions_BT": tokens_BT, "segments_BT": tokens_BT}

            def loss(params):
                hidden_BTD, _, _ = self.model.hidden(params, buffers, tokens_BT, **layout)
                return self.model.token_logprob(params, hidden_BTD, tokens_BT)[0].sum()

            return jax.vjp(loss, params)[1]

        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
            arrays = jax.tree.leaves(jax.eval_shape(kept, params, buffers, tokens_BT))
        weights = collections.Counter((a.shape, a.dtype) for a in jax.tree.leaves(params))
        total = 0
        for array in arrays:
            if weights[array.shape, array.dtype]:
                weights[array.shape, array.dtype] -= 1
            else:
                size = array.size * self._padding(array.shape) * array.dtype.itemsize
                total += int(size / self._parts_of_saved(array.shape))
        return total

    def _padding(self, shape) -> float:
        """How much longer MLA's heads are in the attention kernel, whose rows have 128 lanes; XLA packs GQA's again."""
        c = self.config
        narrow = {c.nope_head_dim, c.value_head_dim, c.rope_head_dim} if c.attention == "mla" else {}
        return -shape[-1] % LANES / shape[-1] + 1 if len(shape) > 3 and shape[-1] in narrow else 1.0

    def _parts_of_saved(self, shape) -> int:
        """Over how many devices an array is split: those with the tokens' whole width are copied along "tensor"."""
        c, num_tokens = self.config, self.rows * self.length
        whole = {c.model_dim, c.q_lora_rank, c.kv_lora_rank, c.kv_lora_rank + c.rope_head_dim, 1}
        stacks = {1, c.num_moe_layers, c.num_layers - c.num_moe_layers}
        is_whole = len(shape) > 1 and shape[-1] in whole and math.prod(shape[:-1]) in {num_tokens * n for n in stacks}
        return self.mesh.size // (self.mesh.shape["tensor"] if is_whole else 1)
