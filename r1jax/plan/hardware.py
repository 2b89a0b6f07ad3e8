"""What a TPU topology has: devices, memory, arithmetic, links. All figures are those of one JAX device.

Sources. Arithmetic and HBM bandwidth: ``pltpu.TpuInfo`` (r1jax.kernels.hardware). HBM: what libtpu 0.0.42.1 lets a program
have, by its own message about one that needs more ("exceeds available HBM (95.74G)"); Google's tables say 16, 95, 32 and 192 GiB a
chip. Links: docs.cloud.google.com/tpu/docs/{v5e,v5p,v6e,tpu7x} give 400, 1200, 800 and 1200 GB/s a chip, all links and both
directions; "How to Scale Your Model" (jax-ml.github.io/scaling-book, "TPU networking") finds nine tenths of that
attainable, 45 and 90 GB/s a link and direction, which are taken here. The two devices of a tpu7x chip share its links. DCN: 50
Gbit/s a chip for v5p, 4 × 200 Gbit/s a host of 8 chips for v6e, 2 × 100 Gbit/s for v5e (the same pages); tpu7x as 100 Gbit/s a chip.

A dimension of the torus is closed to a ring where it is a multiple of 4 chips of a 3-D slice of whole 4×4×4 cubes (v5p, tpu7x), or
16 long (v5e, v6e): then two links serve a collective along it, else, and within a part of it, one.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence

from r1jax.kernels import hardware

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class _Chip:
    devices: int
    hbm_bytes: int
    link_bandwidth: float
    """Of the chip, bytes/s a link and direction."""
    torus_dims: int
    dcn_bandwidth: float
    """Of the chip, bytes/s."""


_CHIPS = {
    "v5e": _Chip(1, int(15.75 * GIB), 45e9, 2, 2 * 100e9 / 8 / 8),
    "v5p": _Chip(1, int(95.74 * GIB), 90e9, 3, 50e9 / 8),
    "v6e": _Chip(1, int(31.25 * GIB), 90e9, 2, 4 * 200e9 / 8 / 8),
    "tpu7x": _Chip(2, int(94.75 * GIB), 90e9, 3, 100e9 / 8),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """One or several slices of one TPU generation. Bandwidths are bytes/s, of one device."""

    generation: str
    shape: tuple[int, ...]
    """Chips along each dimension of a slice."""
    num_slices: int
    devices_per_chip: int
    """JAX devices; v5p's two TensorCores are one (megacore), tpu7x's are two."""
    hbm_bytes: int
    """That a program may use."""
    hbm_bandwidth: float
    peak_flops: float
    """bf16 with float32 sums, per second."""
    peak_fp8_flops: float | None
    """None where the matrix unit has no FP8."""
    link_bandwidth: float
    """A link and direction; of a chip's links each of its devices has its share."""
    torus_dims: int
    dcn_bandwidth: float
    """Between slices."""

    @property
    def name(self) -> str:
        return self.slice_name + (f"*{self.num_slices}" if self.num_slices > 1 else "")

    @property
    def slice_name(self) -> str:
        """As ``jax.experimental.topologies.get_topology_desc`` takes it; the number of slices is an argument of its own."""
        return f"{self.generation}:{'x'.join(map(str, self.shape))}"

    @property
    def num_chips(self) -> int:
        return math.prod(self.shape) * self.num_slices

    @property
    def num_devices(self) -> int:
        return self.num_chips * self.devices_per_chip

    def gather_bandwidth(self, num_devices: int) -> float:
        """Bytes/s at which each of ``num_devices`` neighbours receives an all-gather; a reduce-scatter sends as many."""
        return self._links(num_devices) * self.link_bandwidth

    def exchange_bandwidth(self, num_devices: int) -> float:
        """Bytes/s at which each of ``num_devices`` neighbours can send its part of an all-to-all away.

        Half of it crosses the middle of each dimension, all dimensions at once: d/4 of the time that a link, or the two of a ring,
        would take for it (the scaling book's "AllToAll": a quarter of an all-gather's time for the same array).
        """
        if self._crosses_slices(num_devices):
            return self.dcn_bandwidth
        bandwidths = [4 * ways * self.link_bandwidth / size for size, ways in self._dims(num_devices)]
        return min(bandwidths, default=math.inf)

    def _links(self, num_devices: int) -> float:
        if num_devices <= 1:
            return math.inf
        if self._crosses_slices(num_devices):
            return self.dcn_bandwidth / self.link_bandwidth
        return (
            sum(ways for _, ways in self._dims(num_devices)) or 2 * self.torus_dims
        )  # of one chip: a guess, die to die

    def _crosses_slices(self, num_devices: int) -> bool:
        return num_devices > self.num_devices // self.num_slices

    def _dims(self, num_devices: int) -> list[tuple[int, int]]:
        """(chips, links that serve) of each dimension over which so many neighbours lie: as few dimensions as hold them."""
        chips = -(-num_devices // self.devices_per_chip)
        if chips <= 1:
            return []
        sets = (dims for count in range(1, len(self.shape) + 1) for dims in itertools.combinations(self.shape, count))
        fits = [dims for dims in sets if math.prod(dims) >= chips]
        dims = min(fits, key=lambda dims: (len(dims), math.prod(dims)))
        found = []
        for size in sorted(dims):
            part = min(size, chips)
            found.append((part, 2 if part == size and self._is_ring(size) else 1))
            chips = -(-chips // part)
        return [(size, ways) for size, ways in found if size > 1]

    def _is_ring(self, size: int) -> bool:
        if self.torus_dims == 2:
            return size == 16
        return all(n % 4 == 0 for n in self.shape)


def parse_topology(name: str) -> Topology:
    """The topology of "v5p:8x8x16", or of several slices, "v5p:8x8x8*4".

    Raises ValueError, naming what is known, for another generation, number of dimensions or form.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)(?:\*(\d+))?", name)
    known = ", ".join(f"{generation} ({'x'.join('N' * chip.torus_dims)})" for generation, chip in _CHIPS.items())
    if not match or match[1] not in _CHIPS:
        raise ValueError(
            f"unknown topology {name!r}; known are {known}, as in 'v5p:8x8x16', or 'v5p:8x8x8*4' for four slices"
        )
    generation, shape, slices = match[1], tuple(map(int, match[2].split("x"))), int(match[3] or 1)
    chip = _CHIPS[generation]
    if len(shape) != chip.torus_dims or min(shape) < 1 or slices < 1:
        raise ValueError(
            f"topology {name!r}: a slice of {generation} has {chip.torus_dims} dimensions of at least 1 chip; known are {known}"
        )
    info, cores = hardware.info(generation), hardware.CHIPS[generation][1]
    return Topology(
        generation=generation,
        shape=shape,
        num_slices=slices,
        devices_per_chip=chip.devices,
        hbm_bytes=chip.hbm_bytes,
        hbm_bandwidth=float(info.mem_bw_bytes_per_second * cores),
        peak_flops=float(info.bf16_ops_per_second * cores),
        peak_fp8_flops=float(info.fp8_ops_per_second * cores) or None,
        link_bandwidth=chip.link_bandwidth / chip.devices,
        torus_dims=chip.torus_dims,
        dcn_bandwidth=chip.dcn_bandwidth / chip.devices,
    )


def known_topologies() -> Sequence[str]:
    """Generations that ``parse_topology`` takes."""
    return tuple(_CHIPS)
