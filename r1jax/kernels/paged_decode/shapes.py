"""Sizes of a call of either kind; pages a grid step; what one call costs."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

_STEP_BYTES = 2**20
"""Pages a grid step hold about so much: starting a step takes some 0.35 µs, reading 1 MiB 0.3 to 1.3 µs."""
MAX_PAGES = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """T query tokens each of B sequences that have up to I pages of S tokens: GQA's, of ``head_dim``, or else MLA's."""

    batch: int
    queries: int
    heads: int
    pages_per_sequence: int
    page_size: int
    num_pages: int
    kv_heads: int = 1
    head_dim: int = 0
    latent_dim: int = 0
    rope_dim: int = 0
    dtype: str = "bfloat16"

    @property
    def query_dims(self) -> dict[str, int]:
        """Width of each query by name: a score is a product of their sum, a value is as wide as the first."""
        return (
            {"q_BTNH": self.head_dim}
            if self.head_dim
            else {"q_latent_BTNC": self.latent_dim, "q_rope_BTNR": self.rope_dim}
        )

    @property
    def page_shapes(self) -> dict[str, tuple[int, ...]]:
        """A page of each pool by name."""
        if self.head_dim:
            return {"kv_WJSA": (self.kv_heads, self.page_size, 2 * self.head_dim)}
        return {"latent_WSC": (self.page_size, self.latent_dim), "rope_WRS": (self.rope_dim, self.page_size)}

    @property
    def value_dim(self) -> int:
        """Numbers of a value."""
        return next(iter(self.query_dims.values()))

    @property
    def row_dim(self) -> int:
        """Numbers of a row of queries and of its result."""
        return sum(self.query_dims.values()) + self.value_dim

    @property
    def page_numbers(self) -> int:
        """Numbers that a page holds."""
        return sum(map(math.prod, self.page_shapes.values()))

    @property
    def itemsize(self) -> int:
        """Bytes a number."""
        return jnp.dtype(self.dtype).itemsize

    def arrays(self) -> tuple[dict, dict]:
        """Positional and keyword arguments of ``gqa_decode`` or ``mla_decode``."""

        def array(*shape, dtype=self.dtype):
            return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))

        queries = {n: array(self.batch, self.queries, self.heads, width) for n, width in self.query_dims.items()}
        pages = {name: array(self.num_pages, *shape) for name, shape in self.page_shapes.items()}
        table = array(self.batch, self.pages_per_sequence, dtype="int32")
        return queries | {"pages": pages}, {"page_table_BI": table, "lengths_B": array(self.batch, dtype="int32")}


def pages_per_step(shape: Shape) -> int:
    """Pages that one grid step reads and works on."""
    page_bytes = shape.page_numbers * shape.itemsize
    return max(1, min(MAX_PAGES, shape.pages_per_sequence, -(-_STEP_BYTES // page_bytes)))


def cost(shape: Shape) -> pl.CostEstimate:
    """FLOPs, exponentials and HBM bytes if every sequence has all its pages; each page is read once."""
    rows, pages = shape.queries * shape.heads, shape.pages_per_sequence
    scores = shape.batch * rows * pages * shape.page_size
    return pl.CostEstimate(
        flops=2 * scores * shape.row_dim,
        transcendentals=scores,
        bytes_accessed=shape.batch * (pages * shape.page_numbers + rows * shape.row_dim) * shape.itemsize,
    )
