"""Modelled seconds of a program on a topology. Nothing here was measured on hardware, and every figure from it is *modelled*.

A program takes the longest of

- its matmuls at the peak, times an efficiency (1: the ideal; ``MATMUL_EFFICIENCY`` is an assumption: what large matmuls and
  attention reach together, rarely more than three quarters),
- its HBM bytes at full bandwidth,
- its hidden collectives at the links' bandwidth: weights of layer l + 1 are put together, and gradients of layer l + 1 split,
  while layer l computes, as XLA's scheduler does for a scan's body; layers are alike, so this holds of the sum as of each,

and after that its exposed collectives: what goes to the experts and back, sums over "tensor", keys gathered over
"sequence"; the next computation needs them, and none is hidden behind another part of the batch. Latencies (a few
microseconds a collective, which count in decoding) are left out, so is what several collectives take from each other's links.

MFU is model FLOPs (``r1jax.plan.flops``) over the peak times that time, so recomputation lowers it.
"""

import dataclasses
from collections.abc import Iterable

from r1jax.plan.hardware import Topology
from r1jax.plan.program_plan import Exchange, ProgramPlan

MATMUL_EFFICIENCY = 0.75
"""Stated, not measured."""
_OF_SAMPLING = ("prefill", "decode", "reshard (")
"""How the names of the programs begin that only sampling needs."""


@dataclasses.dataclass(frozen=True)
class Modelled:
    """Seconds of one call of a program."""

    compute: float
    memory: float
    hidden: float
    """Of collectives that the computation may cover."""
    exposed: float
    """Of those that it waits for."""
    mfu: float
    """Model FLOPs over the peak in ``total``."""

    @property
    def total(self) -> float:
        return max(self.compute, self.memory, self.hidden) + self.exposed

    @property
    def bound(self) -> str:
        """What the time is: the longest of the three, "exposed" where that is longer."""
        times = {"FLOPs": self.compute, "HBM": self.memory, "weights": self.hidden, "exchange": self.exposed}
        return max(times, key=lambda name: times[name])


def modelled(plan: ProgramPlan, topology: Topology, *, efficiency: float = MATMUL_EFFICIENCY) -> Modelled:
    """The time of one call. Raises ValueError for an efficiency that is not in (0, 1]."""
    if not 0 < efficiency <= 1:
        raise ValueError(f"efficiency must be more than 0 and at most 1, got {efficiency}")
    times = {
        hidden: sum(exchange_seconds(e, topology) for e in plan.exchanges if e.is_hidden == hidden)
        for hidden in (True, False)
    }
    without_mfu = Modelled(
        compute=plan.hardware_flops / topology.peak_flops / efficiency,
        memory=plan.hbm_bytes / topology.hbm_bandwidth,
        hidden=times[True],
        exposed=times[False],
        mfu=0.0,
    )
    mfu = plan.flops / topology.peak_flops / without_mfu.total if plan.flops else 0.0
    return dataclasses.replace(without_mfu, mfu=mfu)


def exchange_seconds(exchange: Exchange, topology: Topology) -> float:
    """Time of a collective by itself. A sum over all is a reduce-scatter and an all-gather; a swap goes as far as an exchange."""
    if exchange.group <= 1:
        return 0.0
    moved = exchange.bytes * (exchange.group - 1) / exchange.group
    if "all-to-all" in exchange.kind or exchange.kind == "collective-permute":
        return exchange.bytes / topology.exchange_bandwidth(exchange.group)
    passes = 2 if exchange.kind == "all-reduce" else 1
    return passes * moved / topology.gather_bandwidth(exchange.group)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A whole stage, modelled."""

    step_seconds: float
    """One update of the optimizer, and its share of the rollout."""
    rollout_seconds: float
    """Of it, sampling."""
    tokens_per_second: float
    """That are learned from, over all of ``step_seconds``."""
    days: float
    chip_hours: float


def schedule(
    plans: Iterable[ProgramPlan],
    topology: Topology,
    *,
    tokens_per_step: float,
    num_steps: int,
    efficiency: float = MATMUL_EFFICIENCY,
) -> Schedule:
    """The stage's time: each program as often as a training step calls it, one after the other."""
    seconds = {plan.name: plan.calls * modelled(plan, topology, efficiency=efficiency).total for plan in plans}
    step = sum(seconds.values())
    rollout = sum(time for name, time in seconds.items() if name.startswith(_OF_SAMPLING))
    total = step * num_steps
    return Schedule(step, rollout, tokens_per_step / step, total / 86_400, total / 3600 * topology.num_chips)
