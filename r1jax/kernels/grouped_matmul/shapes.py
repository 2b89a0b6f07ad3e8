"""Named shapes of the routed experts, the kernels' blocks, and what each kernel call costs.

A pass is a handful of calls of two kernels (``pallas_tpu``): ``Rows``, rows times the weights of their expert, and ``Sums``,
an expert's sum over its rows. Each call knows its VMEM, picks its blocks by generation, and counts its FLOPs and HBM bytes.
"""

import dataclasses
from collections.abc import Sequence

from jax.experimental import pallas as pl

from r1jax.kernels import hardware

MOST_WEIGHTS = 1 << 23
"""Most numbers of weights in a block ..."""
MOST_SUMS = 1 << 21
"""... and of sums: larger blocks would fit v5e and v6e, but take minutes to compile, and these are bound by FLOPs already."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """R routed rows over E experts, model width D, expert width F; bytes a number."""

    rows: int
    experts: int
    dim: int
    ffn: int
    itemsize: int = 2


SHAPES = {
    # One of 32 expert-parallel devices: 8 of 256 experts, the rows of 4096 tokens a device, and of 128 while decoding.
    "v3": Shape(rows=4096 * 8, experts=8, dim=7168, ffn=2048),
    "v3_decode": Shape(rows=128 * 8, experts=8, dim=7168, ffn=2048),
    "mini_v3": Shape(rows=1280 * 2, experts=16, dim=128, ffn=128, itemsize=4),
}


@dataclasses.dataclass(frozen=True)
class Rows:
    """``inputs`` arrays [R, K] times ``products`` weights [E, K, N]; ``extras`` and ``outputs`` are arrays [R, N]."""

    name: str
    shape: Shape
    contracted: int
    columns: int
    inputs: int = 1
    products: int = 1
    extras: int = 0
    outputs: int = 1
    transcendental: bool = False

    def blocks(self, generation: str) -> tuple[int, int]:
        """(rows, columns) of a block: the widest that fits, since each input is read once a block of columns."""
        rows = rows_per_block(self.shape)
        for columns in _tiles(self.columns):
            weights = self.products * self.contracted * columns
            if weights <= MOST_WEIGHTS and self._vmem(rows, columns) <= _room(generation):
                return rows, columns
        raise ValueError(f"{self.name}: rows of {self.contracted} numbers do not fit the VMEM of a TPU {generation}")

    def _vmem(self, rows, columns):
        s = self.shape
        buffers = self.inputs * rows * self.contracted * s.itemsize
        buffers += self.products * columns * self.contracted * s.itemsize
        buffers += (self.extras + self.outputs) * rows * columns * s.itemsize
        return 2 * buffers + 4 * (self.products + self.extras + self.outputs) * rows * columns

    def cost(self, generation: str) -> pl.CostEstimate:
        """2·R·K·N FLOPs a product. Weights are read once, inputs once a block of columns."""
        s, (_, columns) = self.shape, self.blocks(generation)
        weights = self.products * min(s.experts, s.rows) * self.contracted * self.columns
        bytes_accessed = self.inputs * s.rows * self.contracted * s.itemsize * pl.cdiv(self.columns, columns)
        bytes_accessed += weights * s.itemsize
        bytes_accessed += (self.extras + self.outputs) * s.rows * self.columns * s.itemsize
        flops = 2 * self.products * s.rows * self.contracted * self.columns
        transcendentals = s.rows * self.columns if self.transcendental else 0
        return pl.CostEstimate(flops=flops, bytes_accessed=bytes_accessed, transcendentals=transcendentals)


@dataclasses.dataclass(frozen=True)
class Sums:
    """For each expert leftᵀ · right over its rows, [E, K, N], for each of ``products`` right arrays [R, N]."""

    name: str
    shape: Shape
    left: int
    right: int
    products: int = 1

    def blocks(self, generation: str) -> tuple[int, int, int]:
        """(rows, K, N) of a block: of those that fit, the ones that read the fewest bytes."""
        rows = rows_per_block(self.shape)
        tiles = [(k, n) for k in _tiles(self.left) for n in _tiles(self.right)]
        tiles = [(k, n) for k, n in tiles if self.products * k * n <= MOST_SUMS]
        fits = [(k, n) for k, n in tiles if self._vmem(rows, k, n) <= _room(generation)]
        if not fits:
            raise ValueError(f"{self.name}: no block fits the VMEM of a TPU {generation}")
        return rows, *min(fits, key=lambda tile: self._read(*tile))

    def _vmem(self, rows, k, n):
        s = self.shape
        buffers = rows * (k + self.products * n) * s.itemsize + self.products * k * n * s.itemsize
        return 2 * buffers + 4 * (2 * self.products * k * n + rows * (k + self.products * n))

    def _read(self, k, n):
        columns = self.left * pl.cdiv(self.right, n) + self.products * self.right * pl.cdiv(self.left, k)
        return self.shape.rows * columns * self.shape.itemsize

    def cost(self, generation: str) -> pl.CostEstimate:
        """2·R·K·N FLOPs a product. Left is read once a block of N, right once a block of K, sums are written once."""
        s, (_, k, n) = self.shape, self.blocks(generation)
        area = self.products * self.left * self.right
        bytes_accessed = self._read(k, n) + s.experts * area * s.itemsize
        return pl.CostEstimate(flops=2 * s.rows * area, bytes_accessed=bytes_accessed, transcendentals=0)


def forward(s: Shape, *, saves: bool = False) -> list[Rows]:
    """The calls of a forward pass: silu(x·gate) * (x·up), with ``saves`` both products too, for the way back; hidden · down."""
    gate_up = Rows("gate_up", s, s.dim, s.ffn, products=2, outputs=3 if saves else 1, transcendental=True)
    return [gate_up, Rows("down", s, s.ffn, s.dim)]


def backward(s: Shape) -> list[Rows | Sums]:
    """The calls of a backward pass.

    dy · downᵀ, and from it the gradients of gate·x and up·x, and the hidden rows again; dgate · gateᵀ + dup · upᵀ; xᵀ · dgate
    and xᵀ · dup; hiddenᵀ · dy.
    """
    return [
        Rows("d_hidden", s, s.dim, s.ffn, extras=2, outputs=3, transcendental=True),
        Rows("d_x", s, s.ffn, s.dim, inputs=2, products=2),
        Sums("d_gate_up", s, s.dim, s.ffn, products=2),
        Sums("d_down", s, s.ffn, s.dim),
    ]


def cost(calls: Sequence[Rows | Sums], generation: str) -> pl.CostEstimate:
    """The sum over calls."""
    costs = [call.cost(generation) for call in calls]
    return pl.CostEstimate(
        flops=sum(c.flops for c in costs),
        bytes_accessed=sum(c.bytes_accessed for c in costs),
        transcendentals=sum(c.transcendentals for c in costs),
    )


def _room(generation: str) -> int:
    """Bytes of VMEM that blocks may take; the rest is for what the compiler keeps."""
    return hardware.info(generation).vmem_capacity_bytes * 5 // 8


def rows_per_block(s: Shape) -> int:
    """256, 128 where experts have fewer rows than that, or all."""
    return min(s.rows, 256 if s.rows >= 256 * s.experts else 128)


def _tiles(size: int) -> list[int]:
    """The whole, then multiples of 128 that divide it, largest first; if there are none, blocks of which the last is cut."""
    if size % 128:
        return [size, *(tile for tile in (512, 256, 128) if tile < size)]
    return [size // parts for parts in range(1, size // 128 + 1) if size % (128 * parts) == 0]
