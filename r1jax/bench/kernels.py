"""The kernels: measured on this machine's CPU, plain XLA against the reference; modelled for TPUs that are not here.

Modelled is arithmetic: the FLOPs and HBM bytes of ``kernels.named_shapes``, which each kernel also states to the
compiler, and the time that a device of that generation takes for the longer of the two at its published peaks. No
kernel reaches its roofline: use the table for ratios between kernels, and for which of the two bounds them.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from r1jax.bench.measure import seconds_of
from r1jax.kernels import flash_attention, grouped_matmul, hardware, token_logprob
from r1jax.kernels.named_shapes import SHAPES


@dataclasses.dataclass(frozen=True)
class ModelledPass:
    """A pass of a kernel at a named shape on one device of a generation."""

    kernel: str
    shape: str
    generation: str
    cost: pl.CostEstimate
    unfused_bytes: int | None
    """HBM bytes of the same pass as separate operations; None where that is not modelled."""

    @property
    def seconds(self) -> float:
        """Roofline time."""
        return hardware.roofline_seconds(self.cost, self.generation)

    def __str__(self) -> str:
        intensity = self.cost.flops / self.cost.bytes_accessed
        bound = "FLOPs" if intensity > hardware.flops_per_byte(self.generation) else "bytes"
        fraction = f"{self.cost.bytes_accessed / self.unfused_bytes:.1%}" if self.unfused_bytes else "-"
        return (
            f"{self.kernel:<26}{self.shape:<24}{self.generation:<7}{self.cost.flops / 1e9:>10.1f}"
            f"{self.cost.bytes_accessed / 1e6:>10.1f}{intensity:>8.0f}{self.seconds * 1e3:>10.3f} {bound} {fraction:>10}"
        )


HEADER = f"{'modelled: kernel':<26}{'shape':<24}{'TPU':<7}{'GFLOP':>10}{'HBM MB':>10}{'FLOP/B':>8}{'ms':>10} bound of unfused"


def run(*, generations: list[str], repeats: int) -> dict[str, Any]:
    """Print the modelled table, then measure."""
    print(HEADER, flush=True)
    for row in modelled_passes(generations):
        print(row, flush=True)
    return {"cpu_milliseconds": measure(repeats=repeats)}


def modelled_passes(generations: list[str]) -> Iterator[ModelledPass]:
    """A row for each kernel pass, named shape and generation."""
    for kernel, shapes in SHAPES.items():
        for name, shape in shapes.items():
            for generation in generations:
                unfused = shape.unfused_bytes(generation)
                for which, cost in shape.passes(generation).items():
                    yield ModelledPass(f"{kernel} {which}".strip(), name, generation, cost, unfused.get(which))


def measure(*, repeats: int) -> dict[str, dict[str, dict[str, float]]]:
    """Median milliseconds by operation and implementation, forward and with gradient, of the shapes in ``measured``."""
    table = {}
    for name, (function, arrays) in measured().items():
        table[name] = {}
        for implementation in ("reference", "xla"):
            forward = functools.partial(function, implementation=implementation)
            both = jax.value_and_grad(lambda *a, f=forward: jnp.sum(f(*a)), tuple(range(len(arrays))))
            table[name][implementation] = {
                kind: 1e3 * median(seconds_of(functools.partial(jax.jit(call), *arrays), repeats=repeats))
                for kind, call in (("forward", forward), ("with_gradient", both))
            }
        print(f"{name}: {table[name]}", flush=True)
    return table


def measured() -> dict[str, tuple[Callable, list[jax.Array]]]:
    """{operation at a size that two cores manage: (function of float arrays, the arrays)}; float32."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    tokens, num_experts, dim, ffn, vocab = 1280, 16, 128, 128, 16_384
    experts_TK = jnp.asarray(rng.integers(0, num_experts, (tokens, 2)))
    targets_X = jnp.asarray(rng.integers(0, vocab, tokens))
    segments = jnp.ones((1, 2048), jnp.int32)

    def experts(x, weights, gate, up, down, **name):
        return grouped_matmul.expert_ffn(x, experts_TK, weights, gate, up, down, **name)

    def logprob(x, w, **name):
        return token_logprob.token_logprob(x, w, targets_X, **name)[0]

    def attention(q, k, v, **name):
        layout = {"q_segments_BT": segments, "kv_segments_BS": segments, "scale": 0.2}
        return flash_attention.flash_attention(q, k, v, **layout, **name)

    weights = [normal(num_experts, dim, ffn), normal(num_experts, dim, ffn), normal(num_experts, ffn, dim)]
    return {
        f"expert_ffn, {tokens} tokens, 2 of {num_experts} experts {dim}×{ffn}": (
            experts,
            [normal(tokens, dim), normal(tokens, 2), *weights],
        ),
        f"token_logprob, {tokens} rows of {dim}, {vocab} tokens": (logprob, [normal(tokens, dim), normal(vocab, dim)]),
        "flash_attention, 2048 tokens, 4 heads of 32": (attention, [normal(1, 2048, 4, 32) for _ in range(3)]),
    }
