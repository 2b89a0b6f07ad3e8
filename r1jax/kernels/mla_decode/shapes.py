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
    latent_dim: int
    rope_dim: int
    pages_per_sequence: int
    page_size: int
    num_pages: int
    dtype: str = "bfloat16"

    def arrays(self) -> tuple[dict, dict]:
        """Positional and keyword arguments of ``mla_decode``."""
        b, t, n = self.batch, self.queries, self.heads

        def array(*shape, dtype=self.dtype):
            return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))

        pages = {
            "latent_WSC": array(self.num_pages, self.page_size, self.latent_dim),
            "rope_WRS": array(self.num_pages, self.rope_dim, self.page_size),
        }
        arguments = {"q_latent_BTNC": array(b, t, n, self.latent_dim), "q_rope_BTNR": array(b, t, n, self.rope_dim)}
        table = array(b, self.pages_per_sequence, dtype="int32")
        return arguments | {"pages": pages}, {"page_table_BI": table, "lengths_B": array(b, dtype="int32")}


def _v3(batch: int, queries: int, tokens: int) -> Shape:
    return Shape(
        batch=batch, queries=queries, heads=128, latent_dim=512, rope_dim=64, page_size=128,
        pages_per_sequence=tokens // 128, num_pages=batch * tokens // 128,
    )  # fmt: skip


SHAPES = {
    "v3_4k": _v3(32, 1, 4096),
    "v3_4k_speculative": _v3(32, 2, 4096),
    "v3_32k": _v3(8, 1, 32_768),
    "mini_v3": Shape(
        batch=16, queries=1, heads=4, latent_dim=48, rope_dim=16, pages_per_sequence=4, page_size=128, num_pages=64,
        dtype="float32",
    ),
}  # fmt: skip
"""Shapes that people run, on one device."""


def pages_per_step(shape: Shape) -> int:
    """Pages that one grid step reads and works on."""
    page_bytes = shape.page_size * (shape.latent_dim + shape.rope_dim) * jnp.dtype(shape.dtype).itemsize
    return paged.pages_per_step(page_bytes, shape.pages_per_sequence)


def cost(shape: Shape) -> pl.CostEstimate:
    """FLOPs, exponentials and HBM bytes if every sequence has all its pages; each page is read once."""
    size, rows = jnp.dtype(shape.dtype).itemsize, shape.queries * shape.heads
    keys = shape.pages_per_sequence * shape.page_size
    depth = shape.latent_dim + shape.rope_dim
    return pl.CostEstimate(
        flops=2 * shape.batch * rows * keys * (depth + shape.latent_dim),
        transcendentals=shape.batch * rows * keys,
        bytes_accessed=shape.batch * (keys * depth + rows * (depth + shape.latent_dim)) * size,
    )


def unfused_bytes(shape: Shape) -> int:
    """HBM bytes by separate operations: pages gathered into one array and read twice, scores in float32, weights."""
    size, rows = jnp.dtype(shape.dtype).itemsize, shape.queries * shape.heads
    keys = shape.pages_per_sequence * shape.page_size
    depth = shape.latent_dim + shape.rope_dim
    gather = 2 * keys * depth * size
    square = rows * keys * (4 + 4 + size + size)
    return shape.batch * (
        gather + keys * (depth + shape.latent_dim) * size + square + rows * (depth + shape.latent_dim) * size
    )
