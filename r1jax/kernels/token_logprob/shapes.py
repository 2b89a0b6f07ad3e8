"""Shapes of token log-probabilities, the kernels' blocks, and what they cost."""

import dataclasses

from jax.experimental import pallas as pl

from r1jax.kernels import hardware

_MOST_LOGITS = 1 << 17
"""Most logits in a block: larger ones take minutes to compile, and these are bound by FLOPs already."""


@dataclasses.dataclass(frozen=True)
class LogprobShape:
    """X rows of width D, V tokens; bytes a number of rows (the weights are cast to their type)."""

    rows: int
    vocab: int
    dim: int
    itemsize: int = 2

    def forward_blocks(self, generation: str) -> tuple[int, int]:
        """(rows, tokens) of a block. The weights are read once a block of rows: as many of these as fit."""
        return self._blocks(generation, lambda rows, tokens: 2 * self.dim * (rows + tokens) * self.itemsize)

    def backward_blocks(self, generation: str) -> tuple[int, int]:
        """(rows, tokens): rows whose gradient stays in VMEM in float32 while all weights, and their gradient, pass by."""

        def buffers(rows, tokens):
            return rows * self.dim * (self.itemsize + 4) + 2 * tokens * self.dim * (self.itemsize + 8)

        return self._blocks(generation, buffers)

    def _blocks(self, generation, buffers):
        room = hardware.info(generation).vmem_capacity_bytes * 3 // 4
        for rows in sorted({min(size, self.rows) for size in (1024, 512, 256, 128)}, reverse=True):
            for tokens in _tiles(self.vocab):
                vmem = buffers(rows, tokens) + 6 * 4 * rows * tokens
                if rows * tokens <= max(_MOST_LOGITS, 128 * rows) and vmem <= room:
                    return rows, tokens
        raise ValueError(f"token_logprob: rows of {self.dim} numbers do not fit the VMEM of a TPU {generation}")

    def backward_call_cost(self, generation: str) -> pl.CostEstimate:
        """One of the backward pass' calls: 6·V·D FLOPs a row; it reads the weights and adds to their gradient in float32."""
        rows, _ = self.backward_blocks(generation)
        weights = self.vocab * self.dim * (self.itemsize + (4 if rows >= self.rows else 8))
        return pl.CostEstimate(
            flops=6 * rows * self.vocab * self.dim,
            bytes_accessed=weights + rows * self.dim * (self.itemsize + 4) + 5 * 4 * rows,
            transcendentals=rows * self.vocab,
        )

    def passes(self, generation: str) -> dict[str, pl.CostEstimate]:
        """Forward 2·X·V·D FLOPs, rows once, weights once a block of rows; backward a call for each block of rows."""
        blocks = pl.cdiv(self.rows, self.forward_blocks(generation)[0])
        forward = pl.CostEstimate(
            flops=2 * self.rows * self.vocab * self.dim,
            bytes_accessed=self.dim * self.itemsize * (self.rows + blocks * self.vocab) + 4 * 4 * self.rows,
            transcendentals=self.rows * self.vocab,
        )
        calls = pl.cdiv(self.rows, self.backward_blocks(generation)[0])
        return {"forward": forward, "backward": hardware.total(*[self.backward_call_cost(generation)] * calls)}

    def unfused_bytes(self, generation: str) -> dict[str, int]:
        """Forward writes the logits in float32 and reads them for the maximum, the sum and the entropy.

        Backward reads them and writes their gradient in the rows' type for two products. That moves fewer bytes than
        the kernel does, which adds to the weights' gradient once a call; but the kernel is bound by FLOPs, and 4·X·V
        bytes need not exist.
        """

        def matmul(rows, columns, depth):  # in blocks of 1024 × 1024 results
            reads = rows * pl.cdiv(columns, 1024) + columns * pl.cdiv(rows, 1024)
            return reads * depth * self.itemsize + 4 * rows * columns

        x, v, d = self.rows, self.vocab, self.dim
        backward = (4 + self.itemsize) * x * v + matmul(x, d, v) + matmul(v, d, x)
        return {"forward": 3 * 4 * x * v + matmul(x, v, d), "backward": backward}


def _tiles(vocab: int) -> list[int]:
    """Blocks of the vocabulary, largest first: the whole if it is short, else multiples of 128, such as divide it if possible."""
    whole = [vocab] if vocab <= 1024 else []
    divide = [tile for tile in range(1024, 0, -128) if vocab % tile == 0]
    return whole + (divide or [tile for tile in (1024, 512, 256, 128) if tile < vocab])
