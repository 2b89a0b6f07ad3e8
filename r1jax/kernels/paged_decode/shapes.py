"""Sizes of a call of either kind: what a page holds, pages a grid step, what one call costs.

GQA. A page holds for each of J key heads the rotated key and the value of S tokens, side by side: ``kv_WJSA``, A = 2H.
A head of 64 then fills the 128 lanes of a TPU tile, and a page of all heads is one read. Key heads come first so that
they can be sharded.

MLA. Of a token a page holds the latent after its norm and the rotated key that all heads share (V3 Sec. 2.1.1; spec
A.3.3: 576 numbers in V3), as ``latent_WSC`` and ``rope_WRS``. The rope part has tokens last: 64 numbers would fill half
of a TPU tile's 128 lanes, S = 128 tokens fill them all, so that a page occupies what it holds.
"""

import dataclasses
import math

import jax.numpy as jnp
from jax.experimental import pallas as pl

_STEP_BYTES = 2**20
"""Pages a grid step hold about so much: starting a step takes some 0.35 µs, reading 1 MiB 0.3 to 1.3 µs."""
MAX_PAGES = 8


def page_shapes(
    page_size: int, *, kv_heads: int = 1, head_dim: int = 0, latent_dim: int = 0, rope_dim: int = 0
) -> dict[str, tuple[int, ...]]:
    """A page of each pool of a layer by name: GQA's, of ``head_dim``, or else MLA's."""
    if head_dim:
        return {"kv_WJSA": (kv_heads, page_size, 2 * head_dim)}
    return {"latent_WSC": (page_size, latent_dim), "rope_WRS": (rope_dim, page_size)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeShape:
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
        if self.head_dim:
            return {"q_BTNH": self.head_dim}
        return {"q_latent_BTNC": self.latent_dim, "q_rope_BTNR": self.rope_dim}

    @property
    def page_shapes(self) -> dict[str, tuple[int, ...]]:
        """A page of each pool by name."""
        widths = {name: getattr(self, name) for name in ("kv_heads", "head_dim", "latent_dim", "rope_dim")}
        return page_shapes(self.page_size, **widths)

    @property
    def value_dim(self) -> int:
        """Numbers of a value."""
        return self.head_dim or self.latent_dim

    @property
    def pages_per_step(self) -> int:
        """Pages that one grid step reads and works on."""
        _, page, itemsize = self._numbers()
        return max(1, min(MAX_PAGES, self.pages_per_sequence, pl.cdiv(_STEP_BYTES, page * itemsize)))

    def _numbers(self) -> tuple[int, int, int]:
        """(numbers of a row of queries and of its result, of a page, bytes a number)."""
        row = sum(self.query_dims.values()) + self.value_dim
        return row, sum(map(math.prod, self.page_shapes.values())), jnp.dtype(self.dtype).itemsize

    def passes(self, generation: str) -> dict[str, pl.CostEstimate]:
        """One pass, if every sequence has all its pages; each page is read once."""
        (row, page, itemsize), rows, pages = self._numbers(), self.queries * self.heads, self.pages_per_sequence
        scores = self.batch * rows * pages * self.page_size
        read = self.batch * (pages * page + rows * row) * itemsize
        return {"": pl.CostEstimate(flops=2 * scores * row, bytes_accessed=read, transcendentals=scores)}

    def unfused_bytes(self, generation: str) -> dict[str, int]:
        """The pages are gathered into one array, and that is read as keys and as values; scores are written and read as arrays."""
        (row, page, itemsize), rows, pages = self._numbers(), self.queries * self.heads, self.pages_per_sequence
        keys = pages * self.page_size
        gathered = 2 * pages * page + keys * self.kv_heads * row
        return {"": self.batch * (rows * keys * (8 + 2 * itemsize) + (gathered + rows * row) * itemsize)}
