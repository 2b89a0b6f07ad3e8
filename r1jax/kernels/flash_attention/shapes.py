"""Shapes of attention, the kernel's blocks, and what one call costs.

The costs are the analytic table of ``r1jax bench kernels`` and, unchanged, the ``pl.CostEstimate`` of each kernel. They
assume one segment a row, and that the queries are the last of the keys unless ``q_offset`` is a number.
"""

import dataclasses
import itertools

import jax.numpy as jnp
from jax.experimental import pallas as pl

from r1jax.kernels import hardware
from r1jax.kernels.hardware import LANES

_SIZES = (128, 256, 512, 1024)
"""Block lengths to choose from. More than 1024 brings no intensity that a TPU could use, and slow compilation."""
_MAX_HEADS = 8
"""Query heads a block: what they keep in VMEM grows with them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """Sizes of one call; ``rope_dim`` 0 where keys are not in two parts."""

    batch: int
    queries: int
    keys: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    rope_dim: int = 0
    has_prefixes: bool = False  # ids of prefixes next to those of segments
    dtype: str = "bfloat16"

    def passes(self, generation: str) -> dict[str, pl.CostEstimate]:
        """With the blocks for the generation."""
        by_kernel = costs(self, choose_blocks(self, generation))
        return {"forward": by_kernel["fwd"], "backward": hardware.total(by_kernel["dq"], by_kernel["dkv"])}

    def unfused_bytes(self, generation: str) -> dict[str, int]:
        """Of the forward pass; backward is not modelled.

        Every square of scores is written in float32 and read for the softmax; the weights are written in the arrays'
        type and read for the second product.
        """
        size = jnp.dtype(self.dtype).itemsize
        q_row = self.heads * (self.head_dim + self.rope_dim + self.value_dim)
        k_row = self.kv_heads * (self.head_dim + self.value_dim) + self.rope_dim
        square = self.heads * self.queries * self.keys
        rows = self.queries * q_row + self.keys * k_row
        return {"forward": self.batch * (square * (8 + 2 * size) + rows * size)}


@dataclasses.dataclass(frozen=True)
class Blocks:
    """What one grid step holds: ``queries`` × ``keys`` scores of ``heads`` query heads."""

    queries: int
    keys: int
    heads: int


def choose_blocks(shape: AttentionShape, generation: str) -> Blocks:
    """The blocks for a shape on a TPU generation.

    A block of keys is to be read in half the time of its matmuls: queries · (query heads that share it) ≥ 2 · (FLOPs a
    byte of the generation). For the dk/dv kernel, which reads queries, keys ≥ FLOPs a byte. Blocks are the shortest for
    which that holds; shorter ones where they would be mostly padding or take more than a quarter of VMEM.
    """
    group = shape.heads // shape.kv_heads
    heads = max(n for n in range(1, _MAX_HEADS + 1) if group % n == 0)
    if group == 1 and shape.rope_dim and shape.heads % 2 == 0 and 2 * shape.rope_dim <= LANES:
        heads = 2  # the rope parts of two heads fill the 128 lanes of a tile
    balance = hardware.flops_per_byte(generation)
    queries = min(_at_least(2 * balance / min(group, heads)), _at_least(shape.queries))
    keys = min(_at_least(balance), _at_least(shape.keys))
    while vmem_bytes(shape, Blocks(queries, keys, heads)) > hardware.info(generation).vmem_capacity_bytes // 4:
        if max(queries, keys) == min(_SIZES):
            break
        queries, keys = (queries // 2, keys) if queries > keys else (queries, keys // 2)
    return Blocks(queries, keys, heads)


def _at_least(length: float) -> int:
    """The shortest block of so many tokens, or the longest there is."""
    return next((size for size in _SIZES if size >= length), max(_SIZES))


def vmem_bytes(shape: AttentionShape, blocks: Blocks) -> int:
    """VMEM that the hungriest kernel, dk and dv, asks for: blocks twice, sums in float32, four squares of scores."""
    size = jnp.dtype(shape.dtype).itemsize
    per_key = sum(LANES * pl.cdiv(width, LANES) for width in (shape.head_dim, shape.value_dim, shape.rope_dim))
    rows = blocks.heads * (blocks.queries + 2 * blocks.keys)
    sums = blocks.heads * max(blocks.queries, blocks.keys) * (per_key + 2 * LANES) * 4
    return 2 * rows * per_key * size + sums + 4 * blocks.queries * blocks.keys * 4


def costs(shape: AttentionShape, blocks: Blocks, *, q_offset: int | None = None) -> dict[str, pl.CostEstimate]:
    """FLOPs, exponentials and HBM bytes of the kernels "fwd", "dq" and "dkv".

    A grid step works if its block of scores holds one at or below the diagonal; only for those is anything read that
    was not there already. Products cost 2 · rows · columns · depth; masks and softmax other than exp are not counted.
    """
    size = jnp.dtype(shape.dtype).itemsize
    num_q, num_k = pl.cdiv(shape.queries, blocks.queries), pl.cdiv(shape.keys, blocks.keys)
    offset = shape.keys - shape.queries if q_offset is None else q_offset
    # Blocks of keys that block i of the queries needs, and the other way round.
    seen = [list(range(min(num_k, (offset + (i + 1) * blocks.queries - 1) // blocks.keys + 1))) for i in range(num_q)]
    seeing = [[i for i in range(num_q) if len(seen[i]) > s] for s in range(num_k)]
    steps = sum(map(len, seen))
    per_step = shape.batch * (shape.heads // blocks.heads)
    kv_heads = max(1, blocks.heads * shape.kv_heads // shape.heads)
    scores = per_step * steps * blocks.heads * blocks.queries * blocks.keys
    depth, value = shape.head_dim + shape.rope_dim, shape.value_dim

    q_rows = per_step * num_q * blocks.queries
    id_bytes = 4 * (1 + shape.has_prefixes)
    q_bytes = q_rows * (blocks.heads * depth * size + id_bytes)
    out_bytes = q_rows * blocks.heads * value * size
    row_bytes = q_rows * blocks.heads * 4  # the log of the normaliser, or delta
    k_block = blocks.keys * ((kv_heads * (shape.head_dim + value) + shape.rope_dim) * size + 4)
    q_block = blocks.queries * (blocks.heads * ((depth + value) * size + 8) + id_bytes)
    reads_k = per_step * _fetches(seen) * k_block
    reads_q = per_step * _fetches(seeing) * q_block
    # k, v and segments of a block stay while all heads of the key head pass; its rope part while all heads do. So for dk.
    keys = shape.batch * num_k * blocks.keys
    k_once = 2 * (keys * shape.kv_heads * (shape.head_dim + value) + keys * shape.rope_dim) * size + 4 * keys

    def cost(products: int, hbm: int) -> pl.CostEstimate:
        return pl.CostEstimate(flops=2 * scores * products, transcendentals=scores, bytes_accessed=hbm)

    return {
        "fwd": cost(depth + value, q_bytes + out_bytes + row_bytes + reads_k),
        "dq": cost(2 * depth + value, 2 * q_bytes - id_bytes * q_rows + out_bytes + 2 * row_bytes + reads_k),
        "dkv": cost(2 * depth + 2 * value, k_once + reads_q),
    }


def _fetches(needed: list[list[int]]) -> int:
    """Inner blocks read while the outer ones pass: one that is there already is not read again."""
    visited = [block for inner in needed for block in inner or [0]]
    return 1 + sum(a != b for a, b in itertools.pairwise(visited))
