"""TPU interpret mode as the kernel tests use it: memory that was never written is NaN, accesses are checked for races."""

from jax._src.pallas.mosaic.interpret import interpret_pallas_call
from jax.experimental.pallas import tpu as pltpu

STRICT = pltpu.InterpretParams(uninitialized_memory="nan", detect_races=True)


def races_found() -> bool:
    """Did the last kernel that ran under ``STRICT`` have a race? JAX shows it nowhere else."""
    return interpret_pallas_call.races.races_found
