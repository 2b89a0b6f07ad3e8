"""Choice of experts, and the order of the routed rows that it implies.

The kernel has what a grouped matmul needs beside the choice, ranks and counts, from the same pass over the scores. Neither
JAX's megablox nor tokamax has a router: both start from the sizes of groups, rows already sorted.
"""

import functools

import jax

from r1jax.kernels import hardware
from r1jax.kernels.route import pallas_tpu, reference
from r1jax.kernels.route.reference import Permutation, permutation

IMPLEMENTATIONS = {
    "reference": (reference.route, reference.route_and_sort),
    "pallas_tpu": (pallas_tpu.route, pallas_tpu.route_and_sort),
    "pallas_tpu_interpret": tuple(
        functools.partial(f, interpret=True) for f in (pallas_tpu.route, pallas_tpu.route_and_sort)
    ),
}


def route(
    scores_XE: jax.Array, bias_E: jax.Array | None, *, implementation: str | None = None, **options
) -> tuple[jax.Array, jax.Array]:
    """(weights, experts), each [X, K]: ``r1jax.kernels.route.reference.route`` has the options and what they mean.

    ``implementation``: "reference", "pallas_tpu", "pallas_tpu_interpret" (the kernel anywhere, slowly), or None for the kernel
    where a program for one TPU is traced and the reference elsewhere. Raises ValueError for an unknown one, one that cannot
    run here, and what the kernel does not take.
    """
    return _implementation(implementation)[0](scores_XE, bias_E, **options)


def route_and_sort(
    scores_XE: jax.Array, bias_E: jax.Array | None, *, implementation: str | None = None, **options
) -> tuple[jax.Array, jax.Array, Permutation]:
    """``route``, and its routed rows sorted by expert."""
    return _implementation(implementation)[1](scores_XE, bias_E, **options)


def _implementation(name):
    name = name or ("pallas_tpu" if hardware.is_tpu() else "reference")
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"route has no implementation {name!r}; choose from {sorted(IMPLEMENTATIONS)}")
    return IMPLEMENTATIONS[name]


__all__ = ["Permutation", "permutation", "route", "route_and_sort"]
