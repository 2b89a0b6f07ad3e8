"""Named shapes of the router, the kernel's blocks, and what it costs."""

import dataclasses

from jax.experimental import pallas as pl

from r1jax.kernels import hardware


@dataclasses.dataclass(frozen=True)
class Shape:
    """X tokens, E experts in G groups of which M are kept, K experts a token."""

    tokens: int
    experts: int
    chosen: int
    groups: int = 1
    kept: int = 1
    best_per_group: int = 2


SHAPES = {
    "v3": Shape(tokens=4096, experts=256, chosen=8, groups=8, kept=4),
    "v3_decode": Shape(tokens=128, experts=256, chosen=8, groups=8, kept=4),
    "v2": Shape(tokens=4096, experts=160, chosen=6, groups=8, kept=3, best_per_group=1),
    "mini_v3": Shape(tokens=1280, experts=16, chosen=2, groups=4, kept=2),
}


def tokens_per_block(tokens: int, experts: int, generation: str) -> int:
    """All tokens, or the most of 512, 256, 128 of which a dozen [E, b] arrays fill at most a quarter of VMEM.

    Raises ValueError where even 128 are too many.
    """
    room = hardware.info(generation).vmem_capacity_bytes // 4
    fits = [size for size in (512, 256, 128) if 12 * 4 * experts * size <= room]
    if not fits:
        raise ValueError(f"route: {experts} experts are too many for a TPU {generation}; at most {room // (48 * 128)}")
    return min(tokens, fits[0])


def cost(shape: Shape, block: int, *, logits: bool = False) -> pl.CostEstimate:
    """One pass: scores and bias in; weights, experts, ranks [K, X] and counts out.

    FLOPs are the prefix sums on the matrix unit, 2·b a score, and some six comparisons a score and round.
    """
    scores = shape.tokens * shape.experts
    rounds = shape.chosen + (shape.best_per_group if shape.groups > 1 else 0)
    bytes_accessed = 4 * (scores + 2 * shape.experts + 3 * shape.tokens * shape.chosen)
    return pl.CostEstimate(
        flops=scores * (2 * block + 6 * rounds), bytes_accessed=bytes_accessed, transcendentals=scores if logits else 0
    )
