"""Modelled seconds of a program on a topology. Nothing here was measured on hardware, and every figure from it is
*modelled*.

A program takes the longest of

- its matmuls at the peak, times an efficiency (1: the ideal; ``MATMUL_EFFICIENCY`` is an assumption: what large matmuls
  and attention reach together, rarely more than three quarters),
- its HBM bytes at full bandwidth,
- its hidden collectives at the links' bandwidth: while layer l computes, the weights of layer l + 1 are gathered and
  its gradients are split, as XLA's scheduler does for the body of a scan; layers are alike, so this holds of the sum as
  of each,

and then its exposed collectives: what goes to the experts and back, sums over "tensor", keys gathered over "sequence".
The next computation needs them, and no other part of the batch hides them. Each of them also takes a latency, which is
most of it in decoding. Left out is that collectives share links, and the host's work between two programs.

MFU is model FLOPs (``r1jax.plan.flops``) over the peak times that time, so recomputation lowers it.
"""

import dataclasses

from r1jax.plan.hardware import Topology
from r1jax.plan.program import Exchange, ProgramPlan

MATMUL_EFFICIENCY = 0.75
"""Assumed, not measured."""


@dataclasses.dataclass(frozen=True)
class ModelledTime:
    """Seconds of one call of a program."""

    compute: float
    memory: float
    hidden: float  # of collectives that run while layers compute
    exposed: float  # of collectives that the computation waits for
    model_flops: float  # seconds of the model FLOPs at the peak

    @property
    def total(self) -> float:
        return max(self.compute, self.memory, self.hidden) + self.exposed

    @property
    def mfu(self) -> float:
        return self.model_flops / self.total if self.model_flops else 0.0

    @property
    def bound(self) -> str:
        """The longest part."""
        times = {"FLOPs": self.compute, "HBM": self.memory, "weights": self.hidden, "exchange": self.exposed}
        return max(times, key=lambda name: times[name])


def modelled_time(plan: ProgramPlan, topology: Topology, *, efficiency: float = MATMUL_EFFICIENCY) -> ModelledTime:
    """The time of one call."""
    return ModelledTime(
        compute=plan.hardware_flops / topology.peak_flops / efficiency,
        memory=plan.hbm_bytes / topology.hbm_bandwidth,
        hidden=sum(exchange_seconds(e, topology) for e in plan.exchanges if e.is_hidden),
        exposed=sum(exchange_seconds(e, topology) for e in plan.exchanges if not e.is_hidden),
        model_flops=plan.flops / topology.peak_flops,
    )


def exchange_seconds(exchange: Exchange, topology: Topology) -> float:
    """Of a collective alone. An all-reduce is a reduce-scatter and an all-gather; a permute goes as far as an all-to-all."""
    if exchange.group <= 1:
        return 0.0
    latency = exchange.calls * topology.latency(exchange.group)
    if "all-to-all" in exchange.kind or exchange.kind == "collective-permute":
        return latency + exchange.bytes / topology.exchange_bandwidth(exchange.group)
    passes = 2 if exchange.kind == "all-reduce" else 1
    received = exchange.bytes * (exchange.group - 1) / exchange.group
    return passes * (latency + received / topology.gather_bandwidth(exchange.group))
