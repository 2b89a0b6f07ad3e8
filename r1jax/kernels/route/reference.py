"""DeepSeek's routers after their matmul, as plain jnp: V3's ``noaux_tc`` (V3 Sec. 2.1.2 Eqs. 12-16; spec A.5.1) and V2's."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Permutation(NamedTuple):
    """The X·K routed rows, sorted by expert and within one by token."""

    row_of_place: jax.Array
    """[X·K] int32: which routed row (token · K + k) is at each place."""
    place_XK: jax.Array
    """[X, K] int32: the place of each routed row."""
    offsets: jax.Array
    """[E + 1] int32: expert e has the places offsets[e] to offsets[e + 1]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Routing:
    """How experts are chosen, and what they weigh.

    The bias moves selection and never weighs: experts are chosen by s + b, within the groups whose ``best_per_group``
    highest s + b (V3 two, V2 one) sum highest; the others are −inf. Weights are scaling · s of the chosen, over their
    sum where ``normalize`` (V3 does, V2 does not).
    """

    num_experts_per_token: int
    num_groups: int = 1
    num_groups_per_token: int = 1
    scaling: float
    best_per_group: int = 2
    normalize: bool = True
    score_function: str | None = None
    """Which affinity s to take of the scores u·e: "sigmoid" in V3, "softmax" in V2; None: the scores are affinities already."""


def affinities(scores: jax.Array, score_function: str | None, *, dim: int = -1) -> jax.Array:
    """sigmoid (V3 Eq. 15) or softmax (V2) of the router's logits; None: the scores are affinities already.

    ``dim`` is that of the experts. Raises ValueError for another function.
    """
    if score_function is None:
        return scores
    if score_function == "sigmoid":
        return jax.nn.sigmoid(scores)
    if score_function == "softmax":
        return jax.nn.softmax(scores, axis=dim)
    raise ValueError(f"route has no score function {score_function!r}; choose from 'sigmoid', 'softmax', None")


def route_and_sort(
    scores_XE: jax.Array, bias_E: jax.Array | None, routing: Routing
) -> tuple[jax.Array, jax.Array, Permutation]:
    """See ``r1jax.kernels.route.route_and_sort``."""
    affinity_XE = affinities(scores_XE, routing.score_function)
    experts_XK = _best(affinity_XE if bias_E is None else affinity_XE + bias_E, routing)
    return weigh(affinity_XE, experts_XK, routing), experts_XK, permutation(experts_XK, scores_XE.shape[1])


def weigh(affinity_XE: jax.Array, experts_XK: jax.Array, routing: Routing) -> jax.Array:
    """The weights [X, K] of experts that are chosen; this alone of the router has a gradient."""
    num_experts = affinity_XE.shape[1]
    chosen_XK = (jax.nn.one_hot(experts_XK, num_experts) * affinity_XE[:, None]).sum(-1)  # a gather without a scatter
    weights_XK = routing.scaling * chosen_XK
    return weights_XK / (chosen_XK.sum(axis=1, keepdims=True) + 1e-20) if routing.normalize else weights_XK


def permutation(experts_XK: jax.Array, num_experts: int) -> Permutation:
    """The permutation that a choice of experts implies, by a stable sort."""
    experts = experts_XK.reshape(-1)
    row_of_place = jnp.argsort(experts, stable=True).astype(jnp.int32)
    place = jnp.zeros_like(row_of_place).at[row_of_place]
    place = place.set(jnp.arange(len(experts), dtype=jnp.int32), unique_indices=True)
    ends_E = jnp.cumsum(jnp.bincount(experts, length=num_experts)).astype(jnp.int32)
    return Permutation(row_of_place, place.reshape(experts_XK.shape), jnp.pad(ends_E, (1, 0)))


def _best(selection_XE, routing: Routing):
    """Experts [X, K] of the highest selection scores in the best groups, no gradient; ties to the lowest index."""
    num_rows, num_experts = selection_XE.shape
    selection_XE = jax.lax.stop_gradient(selection_XE)
    if routing.num_groups > 1:
        by_group = selection_XE.reshape(num_rows, routing.num_groups, num_experts // routing.num_groups)
        best, _ = jax.lax.top_k(by_group, min(routing.best_per_group, by_group.shape[-1]))
        _, kept = jax.lax.top_k(best.sum(-1), routing.num_groups_per_token)
        allowed = jax.nn.one_hot(kept, routing.num_groups, dtype=bool).any(axis=1)
        selection_XE = jnp.where(allowed[:, :, None], by_group, -jnp.inf).reshape(num_rows, num_experts)
    return jax.lax.top_k(selection_XE, routing.num_experts_per_token)[1]
