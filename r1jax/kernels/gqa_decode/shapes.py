"""The shapes that the kernel is tested, compiled and modelled at; pages a grid step; what one call costs."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from r1jax.kernels import paged


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of one call: T query tokens each of B sequences that have up to I pages of S tokens."""

    batch: int
    queries: int
    heads: int
    kv_heads: int
    head_dim: int
    pages_per_sequence: int
    page_size: int
    num_pages: int
    dtype: str = "bfloat16"

    def arrays(self) -> tuple[dict, dict]:
        """Positional and keyword arguments of ``gqa_decode``."""
        b, dtype = self.batch, jnp.dtype(self.dtype)
        pool = (self.num_pages, self.kv_heads, self.page_size, 2 * self.head_dim)
        q_BTNH = jax.ShapeDtypeStruct((b, self.queries, self.heads, self.head_dim), dtype)
        arguments = {"q_BTNH": q_BTNH, "pages": {"kv_WJSA": jax.ShapeDtypeStruct(pool, dtype)}}
        table = jax.ShapeDtypeStruct((b, self.pages_per_sequence), jnp.int32)
        return arguments, {"page_table_BI": table, "lengths_B": jax.ShapeDtypeStruct((b,), jnp.int32)}


def _shape(heads: tuple[int, int, int], *, batch: int, tokens: int, queries=1, dtype="bfloat16") -> Shape:
    return Shape(
        batch=batch, queries=queries, heads=heads[0], kv_heads=heads[1], head_dim=heads[2], page_size=128,
        pages_per_sequence=tokens // 128, num_pages=batch * tokens // 128, dtype=dtype,
    )  # fmt: skip


SHAPES = {
    "qwen2.5_7b_4k": _shape((28, 4, 128), batch=32, tokens=4096),
    "qwen2.5_7b_speculative": _shape((28, 4, 128), batch=16, tokens=4096, queries=4),
    "llama3.3_70b_8k": _shape((64, 8, 128), batch=8, tokens=8192),
    "smollm2_2k": _shape((9, 3, 64), batch=32, tokens=2048),
    "mini_qwen": _shape((4, 2, 32), batch=16, tokens=512, dtype="float32"),
}
"""Shapes that people run, on one device."""


def pages_per_step(shape: Shape) -> int:
    """Pages that one grid step reads and works on."""
    page_bytes = shape.page_size * shape.kv_heads * 2 * shape.head_dim * jnp.dtype(shape.dtype).itemsize
    return paged.pages_per_step(page_bytes, shape.pages_per_sequence)


def cost(shape: Shape) -> pl.CostEstimate:
    """FLOPs, exponentials and HBM bytes if every sequence has all its pages; each page is read once."""
    size, rows = jnp.dtype(shape.dtype).itemsize, shape.queries * shape.heads
    keys = shape.pages_per_sequence * shape.page_size
    return pl.CostEstimate(
        flops=2 * shape.batch * rows * keys * 2 * shape.head_dim,
        transcendentals=shape.batch * rows * keys,
        bytes_accessed=shape.batch * 2 * shape.head_dim * (keys * shape.kv_heads + rows) * size,
    )


def unfused_bytes(shape: Shape) -> int:
    """HBM bytes by separate operations: pages gathered into one array and read, scores in float32, weights."""
    size, rows = jnp.dtype(shape.dtype).itemsize, shape.queries * shape.heads
    keys = shape.pages_per_sequence * shape.page_size
    pages = 3 * keys * shape.kv_heads * 2 * shape.head_dim * size
    return shape.batch * (pages + rows * keys * (4 + 4 + size + size) + rows * 2 * shape.head_dim * size)
