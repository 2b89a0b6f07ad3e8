"""What is known of one program of a stage on one topology, counted by hand or by the compiler."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What one collective, over all its calls in a program, brings to a device; by count, for the roofline."""

    kind: str
    """As in ``ProgramPlan.collectives``."""
    bytes: float
    """Of the array that it puts together, splits or adds up, times its calls."""
    group: int
    """Devices that take part."""
    is_hidden: bool
    """Whether the computation of other layers covers it (weights and their gradients): see ``r1jax.plan.roofline``."""


@dataclasses.dataclass(frozen=True)
class ProgramPlan:
    """One program (prefill, decode, update, ...): memory and work of one device for one call."""

    name: str
    """As ``plan.programs`` names it: "prefill", "decode", "reference log-probs", "update", "apply", "reshard", ..."""
    calls: float
    """How often a training step (one update of the optimizer) calls it; the share of it for one called less than once."""
    argument_bytes: int
    """Arrays given, the donated ones too."""
    output_bytes: int
    """Arrays given back, those in place of donated ones too."""
    alias_bytes: int
    """Of ``output_bytes``, what takes the place of an argument."""
    temp_bytes: int
    """The largest that everything else takes at any one time."""
    peak_bytes: int | None
    """The compiler's own figure of all memory at the peak; None where nothing was compiled."""
    resident_bytes: int
    """What lies in memory meanwhile and is no argument of this program (optimizer moments during rollout, ...)."""
    flops: float
    """Model FLOPs by count (6 N a trained token and attention): recomputation is not in it."""
    hardware_flops: float
    """FLOPs that the device with most to do executes: ``flops``, what is computed a second time, a part of a row that sees more."""
    hbm_bytes: float
    """Bytes that HBM reads and writes at least."""
    collectives: Mapping[str, float]
    """Kind ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute") -> bytes of the arrays received,
    times how often its loop runs."""
    compile_seconds: float | None = None
    """None where nothing was compiled."""
    exchanges: tuple[Exchange, ...] = ()
    """The collectives by count, one by one."""

    @property
    def total_bytes(self) -> int:
        """Memory of a device while the program runs: the larger of the compiler's figures, and what lies there beside it."""
        own = self.argument_bytes + self.output_bytes - self.alias_bytes + self.temp_bytes
        return max(own, self.peak_bytes or 0) + self.resident_bytes
