"""The router as one TPU kernel, and the permutation that its choice implies, without a sort.

Source: V3 Sec. 2.1.2 Eqs. 12-16 (spec A.5.1); the reference defines it. Arrays lie with the experts in sublanes and the tokens
in lanes, so that a maximum over experts is taken elementwise and every result is a full row of lanes. A block of tokens:

1. Affinities s, if it is given logits. Selection scores s + b become integers of the same order (the bits of a float, the
   lower 31 of them flipped if it is negative), which puts −0 below 0 and NaN on top, as ``jax.lax.top_k`` does.
2. Groups: the sum of each one's best scores by rounds of "take the highest, put it out"; the best M groups by M such rounds;
   the others become −inf.
3. Experts: K rounds more. The lowest index wins a tie. The affinity (no bias) of each chosen expert is picked by a one-hot.
4. A routed row's rank within its expert is the tokens that chose the expert before: in earlier blocks, a running count that
   stays in VMEM over the grid, plus in this block, a product of the one-hot [E, b] with a triangle of ones [b, b].

Experts' offsets are the sums of the counts before them, and a row's place is offset + rank: the counting sort's result, which
the grouped matmul takes. The grid is sequential. Gradient: only the weights have one, and it is that of ``reference.weigh``,
elementwise lines that XLA makes one pass; the kernel stores nothing for it.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec as P

from r1jax.kernels import hardware, shards
from r1jax.kernels.route import reference, shapes
from r1jax.kernels.route.reference import Permutation

_OUT = -(2**31)
"""Less than the integer of any score."""
_MINUS_INF = -2139095041
"""The integer of −inf."""


@dataclasses.dataclass(frozen=True)
class _Options:
    shape: shapes.Shape
    block: int
    scaling: float
    normalize: bool
    score_function: str | None
    interpret: object

    def weigh(self, scores_XE, experts_XK):
        affinity_XE = reference.affinities(scores_XE, self.score_function)
        return reference.weigh(affinity_XE, experts_XK, scaling=self.scaling, normalize=self.normalize)


def route(scores_XE, bias_E, *, interpret=False, **options) -> tuple[jax.Array, jax.Array]:
    """See ``r1jax.kernels.route.route``; ``interpret`` is that of ``pl.pallas_call``. On a mesh over tokens."""

    def part(scores_XE, bias_E):
        return _pass(scores_XE, bias_E, interpret=interpret, **options)[:2]

    by_token = P(*shards.mesh_axes(("batch",), scores_XE.shape[:1]), None)
    return shards.run_on_parts(part, (scores_XE, bias_E), in_specs=(by_token, P()), out_specs=(by_token, by_token))


def route_and_sort(scores_XE, bias_E, *, interpret=False, **options) -> tuple[jax.Array, jax.Array, Permutation]:
    """See ``r1jax.kernels.route.route_and_sort``; the permutation is that of all tokens, on a mesh too.

    There it comes of a sort, since ranks within an expert depend on the tokens of other devices; experts that are split over
    devices sort what reaches them and do not use it, and XLA then drops it.
    """
    if shards.mesh_to_split() is not None:
        weights_XK, experts_XK = route(scores_XE, bias_E, interpret=interpret, **options)
        return weights_XK, experts_XK, reference.permutation(experts_XK, scores_XE.shape[1])
    weights_XK, experts_XK, rank_XK, counts_E = _pass(scores_XE, bias_E, interpret=interpret, **options)
    offsets = jnp.pad(jnp.cumsum(counts_E), (1, 0))
    place_XK = rank_XK + offsets[experts_XK]
    rows = jnp.arange(place_XK.size, dtype=jnp.int32)
    row_of_place = jnp.zeros_like(rows).at[place_XK.reshape(-1)].set(rows, unique_indices=True)
    return weights_XK, experts_XK, Permutation(row_of_place, place_XK, offsets)


def _pass(
    scores_XE,
    bias_E,
    *,
    num_experts_per_token,
    num_groups,
    num_groups_per_token,
    scaling,
    best_per_group=2,
    normalize=True,
    score_function=None,
    interpret,
) -> Any:
    num_tokens, num_experts = scores_XE.shape
    if scores_XE.dtype != jnp.float32:
        raise ValueError(f"route: scores are {scores_XE.dtype}; the kernel takes float32")
    if num_experts % num_groups or num_experts_per_token > num_experts or num_groups_per_token > num_groups:
        raise ValueError(
            f"route: {num_experts_per_token} of {num_experts} experts in {num_groups_per_token} of {num_groups} groups; the "
            "kernel takes groups of one size, and no more experts or groups a token than there are"
        )
    best_per_group = min(best_per_group, num_experts // num_groups)
    shape = shapes.Shape(
        num_tokens, num_experts, num_experts_per_token, num_groups, num_groups_per_token, best_per_group
    )
    block = shapes.tokens_per_block(num_tokens, num_experts, hardware.generation())
    return _route(scores_XE, bias_E, _Options(shape, block, scaling, normalize, score_function, interpret))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _route(scores_XE, bias_E, options):
    return _call(scores_XE, bias_E, options)


def _call(scores_XE, bias_E, options):
    shape, block = options.shape, options.block
    by_lanes = pl.BlockSpec((shape.chosen, block), lambda i: (0, i))
    column = pl.BlockSpec((shape.experts, 1), lambda i: (0, 0))
    inputs = [(scores_XE.T, pl.BlockSpec((shape.experts, block), lambda i: (0, i)))]
    if bias_E is not None:
        inputs.append((bias_E.astype(jnp.float32)[:, None], column))
    routed = (shape.chosen, shape.tokens)
    weights_KX, experts_KX, rank_KX, counts_E1 = pl.pallas_call(
        functools.partial(_kernel, options=options, has_bias=bias_E is not None),
        grid=(pl.cdiv(shape.tokens, block),),
        in_specs=[spec for _, spec in inputs],
        out_specs=[by_lanes, by_lanes, by_lanes, column],
        out_shape=[
            jax.ShapeDtypeStruct(routed, jnp.float32),
            jax.ShapeDtypeStruct(routed, jnp.int32),
            jax.ShapeDtypeStruct(routed, jnp.int32),
            jax.ShapeDtypeStruct((shape.experts, 1), jnp.int32),
        ],
        scratch_shapes=[
            pltpu.VMEM((shape.experts, block), jnp.int32),
            pltpu.VMEM((shape.groups, block), jnp.int32),
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        cost_estimate=shapes.cost(shape, block, logits=options.score_function is not None),
        interpret=options.interpret,
        name="route",
    )(*(array for array, _ in inputs))
    return weights_KX.T, experts_KX.T, rank_KX.T, counts_E1[:, 0]


def _route_fwd(scores_XE, bias_E, options):
    out = _call(scores_XE, bias_E, options)
    return out, (scores_XE, out[1])


def _route_bwd(options, residuals, gradients):
    scores_XE, experts_XK = residuals
    return jax.vjp(lambda scores: options.weigh(scores, experts_XK), scores_XE)[1](gradients[0])[0], None


_route.defvjp(_route_fwd, _route_bwd)


def _kernel(scores_ref, *refs, options, has_bias):
    refs = list(refs)
    bias_ref = refs.pop(0) if has_bias else None
    weights_ref, experts_ref, rank_ref, counts_ref, keys_ref, group_keys_ref = refs
    shape, block, step = options.shape, options.block, pl.program_id(0)

    @pl.when(step == 0)
    def clear():
        counts_ref[...] = jnp.zeros_like(counts_ref)

    affinity_Eb = reference.affinities(scores_ref[...], options.score_function, dim=0)
    keys_ref[...] = _ordered(affinity_Eb if bias_ref is None else affinity_Eb + bias_ref[...])
    if shape.groups > 1:
        _discard_groups(keys_ref, group_keys_ref, shape)

    keys_Eb, expert_Eb = keys_ref[...], _iota((shape.experts, block), 0)
    taken_Eb = jnp.zeros((shape.experts, block), jnp.float32)
    sum_1b = jnp.zeros((1, block), jnp.float32)
    for k in range(shape.chosen):
        _, expert_1b, keys_Eb = _take_highest(keys_Eb)
        is_chosen_Eb = expert_Eb == expert_1b
        chosen_1b = jnp.where(is_chosen_Eb, affinity_Eb, 0.0).sum(0, keepdims=True)
        taken_Eb = taken_Eb + jnp.where(is_chosen_Eb, 1.0, 0.0)
        sum_1b = sum_1b + chosen_1b
        weights_ref[k : k + 1, :] = options.scaling * chosen_1b
        experts_ref[k : k + 1, :] = expert_1b
    if options.normalize:
        weights_ref[...] = weights_ref[...] / (sum_1b + 1e-20)

    # Past the last token a block holds whatever was there before: it counts for nothing.
    taken_Eb = jnp.where(_iota((shape.experts, block), 1) < shape.tokens - step * block, taken_Eb, 0.0)
    before_bb = jnp.where(_iota((block, block), 0) < _iota((block, block), 1), 1.0, 0.0)
    before_Eb = jnp.dot(
        taken_Eb.astype(jnp.bfloat16), before_bb.astype(jnp.bfloat16), preferred_element_type=jnp.float32
    )
    before_Eb = before_Eb + counts_ref[...].astype(jnp.float32)  # exact up to 2^24 tokens
    for k in range(shape.chosen):
        is_chosen_Eb = expert_Eb == experts_ref[k : k + 1, :]
        rank_ref[k : k + 1, :] = jnp.where(is_chosen_Eb, before_Eb, 0.0).sum(0, keepdims=True).astype(jnp.int32)
    counts_ref[...] += taken_Eb.sum(1, keepdims=True).astype(jnp.int32)


def _discard_groups(keys_ref, group_keys_ref, shape):
    """All experts that are in none of the best groups become −inf."""
    size = shape.experts // shape.groups
    for group in range(shape.groups):
        keys_sb, score_1b = keys_ref[group * size : (group + 1) * size, :], 0.0
        for _ in range(shape.best_per_group):
            highest_1b, _, keys_sb = _take_highest(keys_sb)
            score_1b = score_1b + _value(highest_1b)
        group_keys_ref[group : group + 1, :] = _ordered(score_1b)
    group_keys_Gb, is_kept_Gb = group_keys_ref[...], jnp.zeros(group_keys_ref.shape, jnp.int32)
    for _ in range(shape.kept):
        _, group_1b, group_keys_Gb = _take_highest(group_keys_Gb)
        is_kept_Gb = is_kept_Gb | jnp.where(_iota(is_kept_Gb.shape, 0) == group_1b, 1, 0)
    group_keys_ref[...] = is_kept_Gb
    for group in range(shape.groups):
        members = slice(group * size, (group + 1) * size)
        keys_ref[members, :] = jnp.where(group_keys_ref[group : group + 1, :] > 0, keys_ref[members, :], _MINUS_INF)


def _take_highest(keys_Nb):
    """(highest [1, b], its index [1, b], the lowest of equal ones, the keys with that one put out)."""
    index_Nb = _iota(keys_Nb.shape, 0)
    highest_1b = keys_Nb.max(0, keepdims=True)
    index_1b = jnp.where(keys_Nb == highest_1b, index_Nb, keys_Nb.shape[0]).min(0, keepdims=True)
    return highest_1b, index_1b, jnp.where(index_Nb == index_1b, _OUT, keys_Nb)


def _ordered(value):
    """Integers in the order of float32 numbers; its own inverse on the bits."""
    bits = jax.lax.bitcast_convert_type(value, jnp.int32)
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _value(key):
    return jax.lax.bitcast_convert_type(jnp.where(key < 0, key ^ 0x7FFFFFFF, key), jnp.float32)


def _iota(shape, dim):
    return jax.lax.broadcasted_iota(jnp.int32, shape, dim)
