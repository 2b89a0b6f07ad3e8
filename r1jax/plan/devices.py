"""Stand-ins for the devices of a topology: enough to make a mesh of and to lay arrays out over, without libtpu."""

import dataclasses
import itertools

from r1jax.plan.hardware import Topology
from r1jax.plan.saved import KINDS


@dataclasses.dataclass(frozen=True)
class StandIn:
    """A device that is nowhere, with what JAX asks of one when a mesh is made or a program traced."""

    id: int
    coords: tuple[int, ...]
    core_on_chip: int
    slice_index: int
    device_kind: str
    num_cores: int
    process_index: int = 0
    platform: str = "tpu"


def stand_ins(topology: Topology) -> list[StandIn]:
    """All devices of a topology, slice by slice."""
    kind, num_cores = KINDS[topology.generation]
    shape = (*topology.shape, *(1,) * (3 - len(topology.shape)))
    places = itertools.product(
        range(topology.num_slices), *map(range, reversed(shape)), range(topology.devices_per_chip)
    )
    return [
        StandIn(
            id=index,
            coords=(x, y, z),
            core_on_chip=core,
            slice_index=which,
            device_kind=kind,
            num_cores=num_cores,
        )
        for index, (which, z, y, x, core) in enumerate(places)
    ]
