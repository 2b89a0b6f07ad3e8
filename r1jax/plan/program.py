"""One program of a stage: a jitted function with abstract arguments, and what a plan says of it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from r1jax.models.transformer import Model
from r1jax.sharding import Role, partition_spec


@dataclasses.dataclass(frozen=True)
class Program:
    """One jitted function with the arguments that the stage gives it, as shapes laid out on a mesh."""

    name: str
    count: Callable[["Program", Model], "ProgramPlan"]  # its plan by count: a function of ``r1jax.plan.budget``
    function: Any  # jitted
    arguments: tuple  # trees of ShapeDtypeStructs with shardings
    calls: float
    """In a training step, which is one update of the optimizer; less than 1 for a program that several steps share."""
    sizes: Mapping[str, float]
    """What ``count`` needs: rows and length of tokens, the mean length of a segment, ...; the functions say which."""
    static: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # keyword arguments that are no arrays
    resident: Any = ()  # arrays that are in memory while it runs and are no argument of it
    dynamic_trips: tuple[int, ...] = ()
    """Iterations of loops whose number is not in the compiled text: see ``collective_bytes``."""
    is_counted: bool = False
    """Never compiled: another program is like it and takes more memory."""

    @property
    def mesh(self) -> Mesh:
        """That of its arguments."""
        return jax.tree.leaves(self.arguments)[0].sharding.mesh


@dataclasses.dataclass(frozen=True)
class Exchange:
    """One collective over all its calls in a program, by count."""

    kind: str  # as in ``ProgramPlan.collectives``
    bytes: float  # of the array that it gathers, splits or sums, times its calls
    group: int  # devices that take part
    is_hidden: bool
    """Whether it runs while other layers compute (weights and their gradients): see ``r1jax.plan.roofline``."""
    calls: float = 0  # how many there are, each of which takes a latency; 0 where that does not count


@dataclasses.dataclass(frozen=True)
class ProgramPlan:
    """Memory and work of one call of a program on one device, counted or compiled."""

    name: str
    calls: float  # as in ``Program``
    argument_bytes: int  # arguments, donated ones included
    output_bytes: int  # results, those in donated memory included
    alias_bytes: int  # the part of ``output_bytes`` that is in donated memory
    temp_bytes: int  # temporaries, at the moment when they take most
    peak_bytes: int | None  # all memory at the peak, as the compiler says; None where nothing was compiled
    resident_bytes: int  # memory that other arrays take (the optimizer's moments while the sampler runs, ...)
    flops: float  # model FLOPs by count (6 N a trained token, and attention), without recomputation
    hardware_flops: float  # FLOPs that the busiest device executes, recomputation included
    hbm_bytes: float  # bytes that are read from and written to HBM, at least
    collectives: Mapping[str, float]
    """Kind ("all-gather", "all-to-all", ...) -> bytes received, over all iterations of loops."""
    compile_seconds: float | None = None  # None where nothing was compiled
    exchanges: tuple[Exchange, ...] = ()  # the collectives by count, one by one

    @property
    def total_bytes(self) -> int:
        """Memory of a device while it runs: the larger of the compiler's two figures, and the resident arrays."""
        program = self.argument_bytes + self.output_bytes - self.alias_bytes + self.temp_bytes
        return max(program, self.peak_bytes or 0) + self.resident_bytes


def with_sharding(shape: Any, sharding: Sharding) -> jax.ShapeDtypeStruct:
    """An array's shape and type with this sharding."""
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def abstract_array(
    shape: tuple[int, ...], dtype: Any, axes: tuple[str | None, ...], mesh: Mesh, *, role: Role = "train"
) -> jax.ShapeDtypeStruct:
    """An array with these logical axes."""
    sharding = NamedSharding(mesh, partition_spec(axes, shape, mesh, role=role))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def replicated(tree: Any, mesh: Mesh) -> Any:
    """The arrays of a tree, whole on every device."""
    return jax.tree.map(lambda a: with_sharding(a, NamedSharding(mesh, PartitionSpec())), tree)


def without(state: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The other entries."""
    return {name: tree for name, tree in state.items() if name not in names}
