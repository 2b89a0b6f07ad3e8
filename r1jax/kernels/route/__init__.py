"""Choice of experts, and the order of the routed rows that it implies: what a grouped matmul needs of a router."""

import jax
import jax.numpy as jnp

from r1jax.kernels.dispatch import choose_implementation
from r1jax.kernels.route import pallas_tpu, reference
from r1jax.kernels.route.reference import Permutation, Routing, affinities, permutation, weigh

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


def replay(scores_XE: jax.Array, experts_XK: jax.Array, **options) -> tuple[jax.Array, jax.Array]:
    """``route`` where the experts are chosen already, integers of any type: what they weigh, and they as int32."""
    routing, experts_XK = Routing(**options), experts_XK.astype(jnp.int32)
    return weigh(affinities(scores_XE, routing.score_function), experts_XK, routing), experts_XK


def replay_and_sort(scores_XE: jax.Array, experts_XK: jax.Array, **options) -> tuple[jax.Array, jax.Array, Permutation]:
    """``route_and_sort`` where the experts are chosen already."""
    weights_XK, experts_XK = replay(scores_XE, experts_XK, **options)
    return weights_XK, experts_XK, permutation(experts_XK, scores_XE.shape[1])


__all__ = ["Permutation", "affinities", "permutation", "replay", "replay_and_sort", "route", "route_and_sort"]
