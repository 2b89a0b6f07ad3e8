"""The TPU kernel over tokens: each is routed by itself.

The permutation is that of all tokens, as everywhere. It is computed by a sort, since ranks within an expert depend on the tokens
of other devices; experts that are split over devices sort what reaches them and do not use it, and XLA then drops it.
"""

import functools

from jax.sharding import PartitionSpec as P

from r1jax.kernels import shards
from r1jax.kernels.route import pallas_tpu
from r1jax.kernels.route.reference import permutation


def route(scores_XE, bias_E, **options):
    """See ``r1jax.kernels.route.route``; the kernel itself where there is no mesh to split over."""
    mesh = shards.mesh_to_split()
    if mesh is None:
        return pallas_tpu.route(scores_XE, bias_E, **options)
    by_token = P(*shards.mesh_axes(("batch",), scores_XE.shape[:1], mesh), None)
    return shards.run(
        functools.partial(pallas_tpu.route, **options),
        (scores_XE, bias_E),
        in_specs=(by_token, P()),
        out_specs=(by_token, by_token),
    )


def route_and_sort(scores_XE, bias_E, **options):
    """See ``r1jax.kernels.route.route_and_sort``."""
    if shards.mesh_to_split() is None:
        return pallas_tpu.route_and_sort(scores_XE, bias_E, **options)
    weights_XK, experts_XK = route(scores_XE, bias_E, **options)
    return weights_XK, experts_XK, permutation(experts_XK, scores_XE.shape[1])
