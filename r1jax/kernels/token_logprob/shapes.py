"""Named shapes of token log-probabilities, the kernels' blocks, and what they cost."""

import dataclasses

from jax.experimental import pallas as pl

from r1jax.kernels import hardware

_MOST_LOGITS = 1 << 17
"""Most logits in a block: larger ones take minutes to compile, and these are bound by FLOPs already."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """X rows of width D, V tokens; bytes a number of rows (the weights are cast to their type)."""

    rows: int
    vocab: int
    dim: int
    itemsize: int = 2


SHAPES = {
    "v3": Shape(rows=8192, vocab=129_280, dim=7168),
    "qwen2.5_1.5b": Shape(rows=8192, vocab=151_936, dim=1536),
    "mini_v3": Shape(rows=1280, vocab=512, dim=128, itemsize=4),
}


def forward_blocks(s: Shape, generation: str) -> tuple[int, int]:
    """(rows, tokens) of a block. The weights are read once a block of rows: as many of these as fit."""

    def vmem(rows, tokens):
        return 2 * s.dim * (rows + tokens) * s.itemsize + 6 * 4 * rows * tokens

    return _blocks(s, generation, (1024, 512, 256, 128), vmem)


def backward_blocks(s: Shape, generation: str) -> tuple[int, int]:
    """(rows, tokens): rows whose gradient stays in VMEM in float32 while all weights, and their gradient, pass by."""

    def vmem(rows, tokens):
        resident = rows * s.dim * (s.itemsize + 4)
        return resident + 2 * tokens * s.dim * (s.itemsize + 8) + 6 * 4 * rows * tokens

    return _blocks(s, generation, (1024, 512, 256, 128), vmem)


def forward_cost(s: Shape, generation: str) -> pl.CostEstimate:
    """2·X·V·D FLOPs; rows once, weights once a block of rows."""
    rows, _ = forward_blocks(s, generation)
    passes = pl.cdiv(s.rows, rows)
    return pl.CostEstimate(
        flops=2 * s.rows * s.vocab * s.dim,
        bytes_accessed=s.dim * s.itemsize * (s.rows + passes * s.vocab) + 4 * 4 * s.rows,
        transcendentals=s.rows * s.vocab,
    )


def backward_call_cost(s: Shape, generation: str) -> pl.CostEstimate:
    """One of the backward pass' calls: 6·V·D FLOPs a row; it reads the weights and adds to their gradient in float32."""
    rows, _ = backward_blocks(s, generation)
    weights = s.vocab * s.dim * (s.itemsize + (4 if rows >= s.rows else 8))
    return pl.CostEstimate(
        flops=6 * rows * s.vocab * s.dim,
        bytes_accessed=weights + rows * s.dim * (s.itemsize + 4) + 5 * 4 * rows,
        transcendentals=rows * s.vocab,
    )


def backward_cost(s: Shape, generation: str) -> pl.CostEstimate:
    """All calls: one for each block of rows."""
    calls, one = pl.cdiv(s.rows, backward_blocks(s, generation)[0]), backward_call_cost(s, generation)
    return pl.CostEstimate(
        flops=calls * one.flops,
        bytes_accessed=calls * one.bytes_accessed,
        transcendentals=calls * one.transcendentals,
    )


def _blocks(s: Shape, generation, rows, vmem):
    room = hardware.info(generation).vmem_capacity_bytes * 3 // 4
    for size in sorted({min(r, s.rows) for r in rows}, reverse=True):
        for tokens in _tiles(s.vocab):
            if size * tokens <= max(_MOST_LOGITS, 128 * size) and vmem(size, tokens) <= room:
                return size, tokens
    raise ValueError(f"token_logprob: rows of {s.dim} numbers do not fit the VMEM of a TPU {generation}")


def _tiles(vocab: int) -> list[int]:
    """Blocks of the vocabulary, largest first: the whole if it is short, else multiples of 128, such as divide it if possible."""
    whole = [vocab] if vocab <= 1024 else []
    divide = [tile for tile in range(1024, 0, -128) if vocab % tile == 0]
    return whole + (divide or [tile for tile in (1024, 512, 256, 128) if tile < vocab])
