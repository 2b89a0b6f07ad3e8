"""Meshes of TPUs that are nowhere."""

from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from r1jax.plan.hardware import parse_topology
from r1jax.sharding import MESH_AXES

_NAMES = {"v5e": "v5e:1x1", "v5p": "v5p:1x1x1"}


def abstract_mesh(axes, generation: str) -> AbstractMesh:
    """Sizes by axis name (others are 1), of as many devices of that generation as they need."""
    (one,) = parse_topology(_NAMES[generation]).devices()
    device = AbstractDevice(device_kind=one.device_kind, num_cores=one.num_cores, platform="tpu")
    sizes, types = tuple(axes.get(name, 1) for name in MESH_AXES), (AxisType.Auto,) * len(MESH_AXES)
    return AbstractMesh(sizes, MESH_AXES, axis_types=types, abstract_device=device)
