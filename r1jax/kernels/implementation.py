"""Which implementation of an operation runs: the one that was named, or else the best for the program that is traced."""

from collections.abc import Mapping
from typing import Any

from r1jax.kernels import hardware, shards


def choose(
    operation: str, name: str, implementations: Mapping[str, Any], *, default: str, interpret: Any
) -> tuple[Any, dict[str, Any]]:
    """(what ``implementations`` has under ``name``, the further keyword arguments that it takes).

    ``name`` "auto" means "pallas_tpu" where a program for one TPU is traced, or for several of an ambient mesh over which it is
    split by hand (``shards``); ``default`` elsewhere. ``interpret`` runs the kernel anywhere, slowly: True or
    ``pltpu.InterpretParams``.

    Raises ValueError, at trace time, for a name that there is not, the kernel where it cannot run, and ``interpret`` with
    something that is no kernel.
    """
    if name == "auto":
        is_kernels = hardware.is_one_tpu() or (hardware.is_tpu() and shards.mesh_to_split() is not None)
        name = "pallas_tpu" if is_kernels else default
    if name not in implementations:
        raise ValueError(f"{operation} has no implementation {name!r}; choose from {sorted(implementations)} or 'auto'")
    if name != "pallas_tpu":
        if interpret:
            raise ValueError(f"{operation}: only 'pallas_tpu' can be interpreted, not {name!r}")
        return implementations[name], {}
    if not interpret:
        hardware.require_tpu(operation)
    return implementations[name], {"interpret": interpret}
