"""TPU interpret mode as the kernel tests use it: memory that was never written is NaN, accesses are checked for races.

Two cores share the "parallel" dims of a grid, so that a dim which is none shows: both would write one block.
"""

from jax._src.pallas.mosaic.interpret import interpret_pallas_call
from jax.experimental.pallas import tpu as pltpu

# JAX 0.12 raises where it finds a race, 0.10 only says so.
_TOLD = {"on_race": "warn"} if hasattr(pltpu.InterpretParams, "on_race") else {}
STRICT = pltpu.InterpretParams(uninitialized_memory="nan", detect_races=True, num_cores_or_threads=2, **_TOLD)

_make_state, _states = interpret_pallas_call.RaceDetectionState, []


def _make_and_keep(*args, **options):
    _states.append(_make_state(*args, **options))
    return _states[-1]


interpret_pallas_call.RaceDetectionState = _make_and_keep  # JAX keeps the state of the last kernel only


def races_found() -> bool:
    """Did a kernel that ran under ``STRICT`` since the last call have a race? JAX shows it nowhere else.

    Raises AssertionError if none ran.
    """
    states = list(_states)
    _states.clear()
    assert states, "no kernel was interpreted"
    return any(state.races_found for state in states)
