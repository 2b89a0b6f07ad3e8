"""What a TPU topology has: devices, memory, arithmetic, links. All figures are those of one JAX device.

Sources. Arithmetic and HBM bandwidth: ``pltpu.TpuInfo`` (r1jax.kernels.hardware). HBM: what libtpu 0.0.42.1 lets a
program have, by its message for one that needs more ("exceeds available HBM (95.74G)"); Google's tables say 16, 95, 32
and 192 GiB a chip. Links: docs.cloud.google.com/tpu/docs/{v5e,v5p,v6e,tpu7x} give 400, 1200, 800 and 1200 GB/s a chip,
all links and both directions; "How to Scale Your Model" (jax-ml.github.io/scaling-book, "TPU networking") measures nine
tenths of that, 45 and 90 GB/s a link and direction, which are taken here. The two devices of a tpu7x chip share its
links. DCN, the network between slices: 50 Gbit/s a chip for v5p, 4 × 200 Gbit/s a host of 8 chips for v6e, 2 × 100
Gbit/s for v5e (the same pages); 100 Gbit/s a chip is assumed for tpu7x.

Latency: about a microsecond a hop (the same book, "Sharded matrices"); 50 between slices are assumed.

A dimension of the torus is a ring where it is a multiple of 4 chips of a 3-D slice of whole 4×4×4 cubes (v5p, tpu7x),
or 16 long (v5e, v6e). Two links serve a collective along a ring, and one a collective along a part of it or along a
line.
"""

import dataclasses
import itertools
import math
import re

from r1jax.kernels import hardware

GIB = 1 << 30
_HOP_LATENCY = 1e-6
_SLICE_LATENCY = 50e-6


@dataclasses.dataclass(frozen=True)
class _Chip:
    device_kind: str  # JAX's name
    devices: int  # JAX devices of a chip; all else is of one device
    hbm_bytes: int
    link_bandwidth: float  # bytes/s a link and direction
    torus_dims: int
    dcn_bandwidth: float  # bytes/s


_CHIPS = {
    "v5e": _Chip("TPU v5 lite", 1, int(15.75 * GIB), 45e9, 2, 2 * 100e9 / 8 / 8),
    "v5p": _Chip("TPU v5", 1, int(95.74 * GIB), 90e9, 3, 50e9 / 8),
    "v6e": _Chip("TPU v6 lite", 1, int(31.25 * GIB), 90e9, 2, 4 * 200e9 / 8 / 8),
    "tpu7x": _Chip("TPU7x", 2, int(94.75 * GIB), 90e9 / 2, 3, 100e9 / 8 / 2),
}


@dataclasses.dataclass(frozen=True)
class StandIn:
    """A device that is not here, with what JAX asks of one when a mesh is made or a program is traced."""

    id: int
    coords: tuple[int, ...]
    core_on_chip: int
    slice_index: int
    device_kind: str
    num_cores: int
    process_index: int = 0
    platform: str = "tpu"


@dataclasses.dataclass(frozen=True)
class Topology:
    """One or several slices of one TPU generation. Bandwidths are bytes/s, of one device."""

    generation: str
    shape: tuple[int, ...]  # chips along each dimension of a slice
    num_slices: int

    @property
    def name(self) -> str:
        return self.slice_name + (f"*{self.num_slices}" if self.num_slices > 1 else "")

    @property
    def slice_name(self) -> str:
        """What ``jax.experimental.topologies.get_topology_desc`` takes, together with the number of slices."""
        return f"{self.generation}:{'x'.join(map(str, self.shape))}"

    @property
    def num_chips(self) -> int:
        return math.prod(self.shape) * self.num_slices

    @property
    def num_devices(self) -> int:
        """JAX devices: the two TensorCores of v5p are one (megacore), those of tpu7x are two."""
        return self.num_chips * self._chip.devices

    @property
    def hbm_bytes(self) -> int:
        """That a program may use."""
        return self._chip.hbm_bytes

    @property
    def hbm_bandwidth(self) -> float:
        return float(hardware.info(self.generation).mem_bw_bytes_per_second * self._num_cores)

    @property
    def peak_flops(self) -> float:
        """bf16 with float32 sums, per second."""
        return float(hardware.info(self.generation).bf16_ops_per_second * self._num_cores)

    def devices(self) -> list[StandIn]:
        """All of them, slice by slice: enough to make a mesh of and to lay arrays out over, without libtpu."""
        shape = (*self.shape, *(1,) * (3 - len(self.shape)))
        ranges = (self.num_slices, *reversed(shape), self._chip.devices)
        return [
            StandIn(index, (x, y, z), core, slice_index, self._chip.device_kind, self._num_cores)
            for index, (slice_index, z, y, x, core) in enumerate(itertools.product(*map(range, ranges)))
        ]

    def gather_bandwidth(self, num_devices: int) -> float:
        """Bytes/s at which each of so many neighbours receives an all-gather; a reduce-scatter sends as many."""
        if num_devices <= 1:
            return math.inf
        if self._crosses_slices(num_devices):
            return self._chip.dcn_bandwidth
        within_chip = 2 * self._chip.torus_dims  # from die to die, which is assumed
        return (sum(links for _, links in self._dims(num_devices)) or within_chip) * self._chip.link_bandwidth

    def exchange_bandwidth(self, num_devices: int) -> float:
        """Bytes/s at which each of ``num_devices`` neighbours can send its part of an all-to-all away.

        Half of it crosses the middle of each dimension, all dimensions at once: d/4 of the time that one link, or the
        two of a ring, would take (the scaling book's "AllToAll": a quarter of an all-gather's time for the same array).
        """
        if self._crosses_slices(num_devices):
            return self._chip.dcn_bandwidth
        bandwidths = [4 * links * self._chip.link_bandwidth / size for size, links in self._dims(num_devices)]
        return min(bandwidths, default=math.inf)

    def latency(self, num_devices: int) -> float:
        """Seconds that the first byte takes to the farthest of so many neighbours, dimension by dimension."""
        if self._crosses_slices(num_devices):
            return _SLICE_LATENCY
        return _HOP_LATENCY * sum(size // 2 if links == 2 else size - 1 for size, links in self._dims(num_devices))

    @property
    def _chip(self) -> _Chip:
        return _CHIPS[self.generation]

    @property
    def _num_cores(self) -> int:
        return hardware.CHIPS[self.generation][1]

    def _crosses_slices(self, num_devices: int) -> bool:
        return num_devices > self.num_devices // self.num_slices

    def _dims(self, num_devices: int) -> list[tuple[int, int]]:
        """(chips, links that serve) of each dimension over which so many neighbours lie, as few as hold them."""
        chips = -(-num_devices // self._chip.devices)
        if chips <= 1:
            return []
        sets = (dims for count in range(1, len(self.shape) + 1) for dims in itertools.combinations(self.shape, count))
        fits = [dims for dims in sets if math.prod(dims) >= chips]
        used = []
        for size in sorted(min(fits, key=lambda dims: (len(dims), math.prod(dims)))):
            part = min(size, chips)
            used.append((part, 2 if part == size and self._is_ring(size) else 1))
            chips = -(-chips // part)
        return [(size, links) for size, links in used if size > 1]

    def _is_ring(self, size: int) -> bool:
        return size == 16 if self._chip.torus_dims == 2 else all(n % 4 == 0 for n in self.shape)


def parse_topology(name: str) -> Topology:
    """The topology of "v5p:8x8x16", or of several slices, "v5p:8x8x8*4".

    Raises ValueError, with the names that are known, for another generation, number of dimensions or form.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)(?:\*(\d+))?", name)
    if match and match[1] in _CHIPS:
        topology = Topology(match[1], tuple(map(int, match[2].split("x"))), int(match[3] or 1))
        if len(topology.shape) == _CHIPS[match[1]].torus_dims and min(*topology.shape, topology.num_slices) > 0:
            return topology
    known = ", ".join(f"{generation} ({'x'.join('N' * chip.torus_dims)})" for generation, chip in _CHIPS.items())
    raise ValueError(
        f"unknown topology {name!r}; known are {known}, N at least 1, as in 'v5p:8x8x16', or 'v5p:8x8x8*4' for four slices"
    )
