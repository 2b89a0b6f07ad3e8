"""Choice of experts, and the order of the routed rows that it implies: what a grouped matmul needs of a router."""

import jax

from r1jax.kernels.dispatch import choose_implementation
from r1jax.kernels.route import pallas_tpu, reference
from r1jax.kernels.route.reference import Permutation, Routing, affinities, permutation

IMPLEMENTATIONS = {"reference": reference.route_and_sort, "pallas_tpu": pallas_tpu.route_and_sort}


def route_and_sort(
    scores_XE: jax.Array, bias_E: jax.Array | None, *, implementation: str = "auto", interpret=False, **options
) -> tuple[jax.Array, jax.Array, Permutation]:
    """(weights, experts), each [X, K], and the routed rows sorted by expert; ``options`` are the fields of ``Routing``.

    ``implementation`` ("reference" or "pallas_tpu") and ``interpret``: see ``choose_implementation``. Raises ValueError
    as it does, and for scores and sizes that the kernel does not take.
    """
    function, interpreted = choose_implementation(
        "route", implementation, IMPLEMENTATIONS, default="reference", interpret=interpret
    )
    return function(scores_XE, bias_E, Routing(**options), **interpreted)


def route(scores_XE: jax.Array, bias_E: jax.Array | None, **options) -> tuple[jax.Array, jax.Array]:
    """``route_and_sort`` without the order, which a compiled program then does not compute."""
    return route_and_sort(scores_XE, bias_E, **options)[:2]


__all__ = ["Permutation", "affinities", "permutation", "route", "route_and_sort"]
