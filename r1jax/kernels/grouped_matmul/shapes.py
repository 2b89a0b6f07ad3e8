"""Shapes of the routed experts, the kernels' blocks, and what each kernel call costs.

A pass is a handful of calls of two kernels (``pallas_tpu``): ``RowsCall``, rows times the weights of their expert, and
``SumsCall``, an expert's sum over its rows. Each call knows its VMEM, picks its blocks by generation, and counts its
FLOPs and HBM bytes.
"""

import dataclasses

from jax.experimental import pallas as pl

from r1jax.kernels import hardware

MOST_WEIGHTS = 1 << 23
"""Most numbers of weights in a block ..."""
MOST_SUMS = 1 << 21
"""... and of sums: larger blocks would fit v5e and v6e, but take minutes to compile, and these are bound by FLOPs already."""


@dataclasses.dataclass(frozen=True)
class ExpertShape:
    """R routed rows over E experts, model width D, expert width F; bytes a number."""

    rows: int
    experts: int
    dim: int
    ffn: int
    itemsize: int = 2

    @property
    def rows_per_block(self) -> int:
        """256, 128 where experts have fewer rows than that, or all."""
        return min(self.rows, 256 if self.rows >= 256 * self.experts else 128)

    def forward_calls(self, *, saves: bool = False) -> list["RowsCall"]:
        """silu(x·gate) * (x·up), with ``saves`` both products too, for the way back; hidden · down."""
        outputs = 3 if saves else 1
        gate_up = RowsCall("gate_up", self, self.dim, self.ffn, products=2, outputs=outputs, transcendental=True)
        return [gate_up, RowsCall("down", self, self.ffn, self.dim)]

    def backward_calls(self) -> list["RowsCall | SumsCall"]:
        """dy · downᵀ, and from it the gradients of gate·x and up·x, and the hidden rows again; dgate · gateᵀ + dup ·
        upᵀ; xᵀ · dgate and xᵀ · dup; hiddenᵀ · dy.
        """
        return [
            RowsCall("d_hidden", self, self.dim, self.ffn, extras=2, outputs=3, transcendental=True),
            RowsCall("d_x", self, self.ffn, self.dim, inputs=2, products=2),
            SumsCall("d_gate_up", self, self.dim, self.ffn, products=2),
            SumsCall("d_down", self, self.ffn, self.dim),
        ]

    def passes(self, generation: str) -> dict[str, pl.CostEstimate]:
        """The sum of the calls of each pass."""
        calls = {"forward": self.forward_calls(), "backward": self.backward_calls()}
        return {name: hardware.total(*(call.cost(generation) for call in calls[name])) for name in calls}

    def unfused_bytes(self, generation: str) -> dict[str, int]:
        """Each product is a grouped matmul with blocks chosen in the same way; the rest reads and writes [R, F] and [R,
        D].

        The rest is SwiGLU and its gradient, and the sum of the two products of dx.
        """
        first, second = RowsCall("", self, self.dim, self.ffn), RowsCall("", self, self.ffn, self.dim)
        of_w, of_down = SumsCall("", self, self.dim, self.ffn), SumsCall("", self, self.ffn, self.dim)

        def total(calls, numbers_a_row):
            products = sum(call.cost(generation).bytes_accessed for call in calls)
            return products + numbers_a_row * self.rows * self.itemsize

        backward = [first, second, second, of_w, of_w, of_down]
        return {
            "forward": total([first, first, second], 3 * self.ffn),
            "backward": total(backward, 6 * self.ffn + 3 * self.dim),
        }


@dataclasses.dataclass(frozen=True)
class RowsCall:
    """``inputs`` arrays [R, K] times ``products`` weights [E, K, N]; ``extras`` and ``outputs`` are arrays [R, N]."""

    name: str
    shape: ExpertShape
    contracted: int
    columns: int
    inputs: int = 1
    products: int = 1
    extras: int = 0
    outputs: int = 1
    transcendental: bool = False

    def blocks(self, generation: str) -> tuple[int, int]:
        """(rows, columns) of a block: the widest that fits, since each input is read once a block of columns."""
        rows = self.shape.rows_per_block
        for columns in _tiles(self.columns):
            weights = self.products * self.contracted * columns
            if weights <= MOST_WEIGHTS and self._vmem(rows, columns) <= _room(generation):
                return rows, columns
        raise ValueError(f"{self.name}: rows of {self.contracted} numbers do not fit the VMEM of a TPU {generation}")

    def _vmem(self, rows, columns):
        results = self.extras + self.outputs
        numbers = (self.inputs * rows + self.products * columns) * self.contracted + results * rows * columns
        return 2 * numbers * self.shape.itemsize + 4 * (self.products + results) * rows * columns

    def cost(self, generation: str) -> pl.CostEstimate:
        """2·R·K·N FLOPs a product. Weights are read once, inputs once a block of columns."""
        s, (_, columns) = self.shape, self.blocks(generation)
        inputs = self.inputs * s.rows * self.contracted * pl.cdiv(self.columns, columns)
        weights = self.products * min(s.experts, s.rows) * self.contracted * self.columns
        numbers = inputs + weights + (self.extras + self.outputs) * s.rows * self.columns
        flops = 2 * self.products * s.rows * self.contracted * self.columns
        transcendentals = s.rows * self.columns if self.transcendental else 0
        return pl.CostEstimate(flops=flops, bytes_accessed=numbers * s.itemsize, transcendentals=transcendentals)


@dataclasses.dataclass(frozen=True)
class SumsCall:
    """For each expert leftᵀ · right over its rows, [E, K, N], for each of ``products`` right arrays [R, N]."""

    name: str
    shape: ExpertShape
    left: int
    right: int
    products: int = 1

    def blocks(self, generation: str) -> tuple[int, int, int]:
        """(rows, K, N) of a block: of those that fit, the ones that read the fewest bytes."""
        rows = self.shape.rows_per_block
        tiles = [(k, n) for k in _tiles(self.left) for n in _tiles(self.right)]
        tiles = [(k, n) for k, n in tiles if self.products * k * n <= MOST_SUMS]
        fits = [(k, n) for k, n in tiles if self._vmem(rows, k, n) <= _room(generation)]
        if not fits:
            raise ValueError(f"{self.name}: no block fits the VMEM of a TPU {generation}")
        return rows, *min(fits, key=lambda tile: self._read(*tile))

    def _vmem(self, rows, k, n):
        rows_read, sums = rows * (k + self.products * n), self.products * k * n
        return 2 * (rows_read + sums) * self.shape.itemsize + 4 * (2 * sums + rows_read)

    def _read(self, k, n):
        columns = self.left * pl.cdiv(self.right, n) + self.products * self.right * pl.cdiv(self.left, k)
        return self.shape.rows * columns * self.shape.itemsize

    def cost(self, generation: str) -> pl.CostEstimate:
        """2·R·K·N FLOPs a product. Left is read once a block of N, right once a block of K, sums are written once."""
        s, (_, k, n) = self.shape, self.blocks(generation)
        area = self.products * self.left * self.right
        bytes_accessed = self._read(k, n) + s.experts * area * s.itemsize
        return pl.CostEstimate(flops=2 * s.rows * area, bytes_accessed=bytes_accessed, transcendentals=0)


def _room(generation: str) -> int:
    """Bytes of VMEM that blocks may take; the rest is for what the compiler keeps."""
    return hardware.info(generation).vmem_capacity_bytes * 5 // 8


def _tiles(size: int) -> list[int]:
    """The whole, then multiples of 128 that divide it, largest first; if there are none, blocks of which the last is cut."""
    if size % 128:
        return [size, *(tile for tile in (512, 256, 128) if tile < size)]
    return [size // parts for parts in range(1, size // 128 + 1) if size % (128 * parts) == 0]
