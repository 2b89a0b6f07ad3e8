"""One program of a stage: a jitted function with the arguments that the stage gives it, as shapes laid out on a mesh."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh


@dataclasses.dataclass(frozen=True)
class Program:
    """One jitted function with the arguments that the stage gives it."""

    name: str
    kind: str
    """Of what shape it is for the analytic count: "score", "zeros", "accumulate", "apply", "prefill", "decode", "reward"."""
    function: Any
    """Jitted."""
    arguments: tuple
    """Trees of ShapeDtypeStructs with shardings."""
    calls: float
    """A training step's (one update of the optimizer)."""
    sizes: Mapping[str, int]
    """By kind: rows and length of tokens, and the mean length of a segment; prompts, length and samples; rows, slots, steps."""
    static: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Keyword arguments that are no arrays."""
    resident: Any = ()
    """Arrays that lie in memory meanwhile and are no argument."""
    dynamic_trips: tuple[int, ...] = ()
    """Turns of the loops that the compiled text does not tell: see ``collective_bytes``."""

    @property
    def mesh(self) -> Mesh:
        """That its arguments lie on."""
        return jax.tree.leaves(self.arguments)[0].sharding.mesh
