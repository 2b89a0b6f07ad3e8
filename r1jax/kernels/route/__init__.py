"""Choice of experts, and the order of the routed rows that it implies: what a grouped matmul needs of a router."""

import jax

from r1jax.kernels.implementation import choose
from r1jax.kernels.route import pallas_tpu, reference
from r1jax.kernels.route.reference import Permutation, affinities, permutation

IMPLEMENTATIONS = {"reference": reference, "pallas_tpu": pallas_tpu}


def route(
    scores_XE: jax.Array, bias_E: jax.Array | None, *, implementation: str = "auto", interpret=False, **options
) -> tuple[jax.Array, jax.Array]:
    """(weights, experts), each [X, K]: ``reference.route`` has the options and what they mean.

    ``implementation`` ("reference" or "pallas_tpu") and ``interpret``: see ``choose``. Raises ValueError as it does, and for
    scores and sizes that the kernel does not take.
    """
    implement, interpreted = _choose(implementation, interpret)
    return implement.route(scores_XE, bias_E, **interpreted, **options)


def route_and_sort(
    scores_XE: jax.Array, bias_E: jax.Array | None, *, implementation: str = "auto", interpret=False, **options
) -> tuple[jax.Array, jax.Array, Permutation]:
    """``route``, and its routed rows sorted by expert."""
    implement, interpreted = _choose(implementation, interpret)
    return implement.route_and_sort(scores_XE, bias_E, **interpreted, **options)


def _choose(name: str, interpret):
    return choose("route", name, IMPLEMENTATIONS, default="reference", interpret=interpret)


__all__ = ["Permutation", "affinities", "permutation", "route", "route_and_sort"]
