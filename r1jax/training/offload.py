"""State that waits in the host's memory until it is needed: the reference model, and the optimizer's moments.

The reference is wanted once a phase, for its log-probs, and the moments once an update, when no activations are there
any more. In between, while something is sampled and while gradients are computed, they need not take the accelerator's
memory: 4 bytes a parameter for the reference, 8 (or 4 in bfloat16) for the moments. The price is the way over the
host's link, each time; for the log-probs, and for the step of the optimizer, all of the part is there.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax

_HOST, _DEVICE = "pinned_host", "device"
"""JAX's names of the two kinds of memory."""
REFERENCE, OPTIMIZER = "reference", "optimizer"


def check_offload(parts: Sequence[str], *, devices: Iterable[Any]) -> None:
    """Raises ValueError for devices in whose host's memory JAX cannot lay the parts of the state that are to wait there."""
    for device in devices if parts else ():
        kinds = [memory.kind for memory in device.addressable_memories()]
        if _HOST not in kinds:
            raise ValueError(
                f"offload={list(parts)} needs memory of the kind {_HOST!r}, and {device.device_kind} on the platform "
                f"{device.platform!r} has {kinds}; leave the key out"
            )


def to_host_memory(tree: Any) -> Any:
    """A copy in the host's memory, laid out over the mesh as before; of ShapeDtypeStructs others that say so.

    Scalars (an optimizer's count) stay where they are.
    """
    return jax.tree.map(lambda array: _to(array, _HOST, array.sharding) if array.ndim else array, tree)


def to_device_memory(tree: Any, shardings: Any = None) -> Any:
    """The arrays in the accelerator's memory; those that are there already are handed on.

    shardings: of the arrays, within a jitted function, where they have none that can be asked.
    """
    if shardings is None:
        shardings = jax.tree.map(lambda array: array.sharding, tree)
    return jax.tree.map(lambda a, kept: _to(a, _DEVICE, kept) if kept.memory_kind == _HOST else a, tree, shardings)


def _to(array: Any, kind: str, sharding: jax.sharding.Sharding) -> Any:
    sharding = sharding.with_memory_kind(kind)
    if isinstance(array, jax.ShapeDtypeStruct):
        return array.update(sharding=sharding)
    return jax.device_put(array, sharding)
