"""The router as one TPU kernel, and the permutation that its choice implies, without a sort.

Source: V3 Sec. 2.1.2 Eqs. 12-16 (spec A.5.1); the reference defines it. Arrays lie with the experts in sublanes and the
tokens in lanes, so that a maximum over experts is taken elementwise and every result is a full row of lanes. A block of
tokens:

1. Affinities s, if it is given logits. Selection scores s + b become integers of the same order (the bits of a float,
   the lower 31 of them flipped if it is negative), which puts −0 below 0 and NaN on top, as ``jax.lax.top_k`` does.
2. Groups: the sum of each one's best scores by rounds of "take the highest, put it out"; the best M groups by M such
   rounds; the others become −inf.
3. Experts: K rounds more. The lowest index wins a tie. The affinity (no bias) of each chosen expert is picked by a
  one-hot.
4. A routed row's rank within its expert is the tokens that chose the expert before: in earlier blocks, a running count
   that stays in VMEM over the grid, plus in this block, a product of the one-hot [E, b] with a triangle of ones [b, b].

Experts' offsets are the sums of the counts before them, and a row's place is offset + rank: the counting sort's result,
which the grouped matmul takes. The grid is sequential. Gradient: only the weights have one, and it is that of
``reference.weigh``, elementwise lines that XLA makes one pass; the kernel stores nothing for it.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec as P

from r1jax.kernels import dispatch, hardware
from r1jax.kernels.route import reference
from r1jax.kernels.route.reference import Permutation, Routing

_OUT = -(2**31)
"""Less than the integer of any score."""
_MINUS_INF = -2139095041
"""The integer of −inf."""


@dataclasses.dataclass(frozen=True)
class RouterShape:
    """X tokens and E experts, of which each token takes what ``routing`` says."""

    tokens: int
    experts: int
    routing: Routing

    def block(self, generation: str) -> int:
        """All tokens, or the most of 512, 256, 128 of which a dozen [E, b] arrays fill at most a quarter of VMEM.

        Raises ValueError where even 128 are too many.
        """
        room = hardware.info(generation).vmem_capacity_bytes // 4
        fits = [size for size in (512, 256, 128) if 12 * 4 * self.experts * size <= room]
        if not fits:
            most = room // (48 * 128)
            raise ValueError(f"route: {self.experts} experts are too many for a TPU {generation}; at most {most}")
        return min(self.tokens, fits[0])

    def passes(self, generation: str) -> dict[str, pl.CostEstimate]:
        """One pass: scores and bias in; weights, experts, ranks [K, X] and counts out.

        FLOPs are the prefix sums on the matrix unit, 2·b a score, and some six comparisons a score and round.
        """
        scores, r = self.tokens * self.experts, self.routing
        rounds = r.num_experts_per_token + (r.best_per_group if r.num_groups > 1 else 0)
        bytes_accessed = 4 * (scores + 2 * self.experts + 3 * self.tokens * r.num_experts_per_token)
        flops = scores * (2 * self.block(generation) + 6 * rounds)
        transcendentals = 0 if r.score_function is None else scores
        return {"": pl.CostEstimate(flops=flops, bytes_accessed=bytes_accessed, transcendentals=transcendentals)}

    def unfused_bytes(self, generation: str) -> dict[str, int]:
        """Seven passes over [X, E], groups and results, one read and write of the sort's keys and values: a lower
        bound.

        Scores are read twice; selection and the masked one written once, read for the groups' best, for the mask and
        for top-k.
        """
        passes, groups = (7 if self.routing.num_groups > 1 else 4), self.routing.num_groups
        routed = self.tokens * self.routing.num_experts_per_token
        return {"": 4 * (passes * self.tokens * self.experts + 2 * self.tokens * groups + 6 * routed)}


def route_and_sort(scores_XE, bias_E, routing: Routing, *, interpret=False) -> tuple[jax.Array, jax.Array, Permutation]:
    """See ``r1jax.kernels.route.route_and_sort``; ``interpret`` is that of ``pl.pallas_call``.

    On a mesh it is split over tokens, and the permutation, that of all tokens there too, comes of a sort: ranks within
    an expert depend on the tokens of other devices. Experts that are split over devices sort what reaches them and do
    not use it, and XLA then drops it.
    """
    _check(scores_XE, routing)
    kernel = functools.partial(_pass, routing=routing, interpret=interpret)
    if dispatch.mesh_to_split() is not None:
        by_token = P(*dispatch.mesh_axes(("batch",), scores_XE.shape[:1]), None)
        weights_XK, experts_XK = dispatch.run_on_parts(
            lambda *arrays: kernel(*arrays)[:2],
            (scores_XE, bias_E),
            in_specs=(by_token, P()),
            out_specs=(by_token,) * 2,
        )
        return weights_XK, experts_XK, reference.permutation(experts_XK, scores_XE.shape[1])
    weights_XK, experts_XK, rank_XK, counts_E = kernel(scores_XE, bias_E)
    offsets = jnp.pad(jnp.cumsum(counts_E), (1, 0))
    place_XK = rank_XK + offsets[experts_XK]
    rows = jnp.arange(place_XK.size, dtype=jnp.int32)
    row_of_place = jnp.zeros_like(rows).at[place_XK.reshape(-1)].set(rows, unique_indices=True)
    return weights_XK, experts_XK, Permutation(row_of_place, place_XK, offsets)


def _check(scores_XE, r: Routing) -> None:
    num_experts = scores_XE.shape[1]
    if scores_XE.dtype != jnp.float32:
        raise ValueError(f"route: scores are {scores_XE.dtype}; the kernel takes float32")
    if num_experts % r.num_groups or r.num_experts_per_token > num_experts or r.num_groups_per_token > r.num_groups:
        raise ValueError(
            f"route: {r.num_experts_per_token} of {num_experts} experts in {r.num_groups_per_token} of {r.num_groups} groups; "
            "the kernel takes groups of one size, and no more experts or groups a token than there are"
        )


def _pass(scores_XE, bias_E, *, routing, interpret):
    num_tokens, num_experts = scores_XE.shape
    best_per_group = min(routing.best_per_group, num_experts // routing.num_groups)
    shape = RouterShape(num_tokens, num_experts, dataclasses.replace(routing, best_per_group=best_per_group))
    return _route(scores_XE, bias_E, shape, hardware.generation(), interpret)


def _route_fwd(scores_XE, bias_E, shape, generation, interpret):
    block, routing = shape.block(generation), shape.routing
    by_lanes = pl.BlockSpec((routing.num_experts_per_token, block), lambda i: (0, i))
    column = pl.BlockSpec((shape.experts, 1), lambda i: (0, 0))
    inputs = [(scores_XE.T, pl.BlockSpec((shape.experts, block), lambda i: (0, i)))]
    if bias_E is not None:
        inputs.append((bias_E.astype(jnp.float32)[:, None], column))
    routed = (routing.num_experts_per_token, shape.tokens)
    weights_KX, experts_KX, rank_KX, counts_E1 = pl.pallas_call(
        functools.partial(_kernel, shape=shape, block=block, has_bias=bias_E is not None),
        grid=(pl.cdiv(shape.tokens, block),),
        in_specs=[spec for _, spec in inputs],
        out_specs=[by_lanes, by_lanes, by_lanes, column],
        out_shape=[
            jax.ShapeDtypeStruct(routed, jnp.float32),
            jax.ShapeDtypeStruct(routed, jnp.int32),
            jax.ShapeDtypeStruct(routed, jnp.int32),
            jax.ShapeDtypeStruct((shape.experts, 1), jnp.int32),
        ],
        scratch_shapes=[pltpu.VMEM((rows, block), jnp.int32) for rows in (shape.experts, routing.num_groups)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        cost_estimate=shape.passes(generation)[""],
        interpret=interpret,
        name="route",
    )(*(array for array, _ in inputs))
    experts_XK = experts_KX.T
    return (weights_KX.T, experts_XK, rank_KX.T, counts_E1[:, 0]), (scores_XE, experts_XK)


def _route_bwd(shape, generation, interpret, residuals, gradients):
    scores_XE, experts_XK = residuals

    def weights(scores_XE):
        affinity_XE = reference.affinities(scores_XE, shape.routing.score_function)
        return reference.weigh(affinity_XE, experts_XK, shape.routing)

    return jax.vjp(weights, scores_XE)[1](gradients[0])[0], None


_route = dispatch.with_gradient(_route_fwd, _route_bwd, static=(2, 3, 4))


def _kernel(scores_ref, *refs, shape, block, has_bias):
    weights_ref, experts_ref, rank_ref, counts_ref, keys_ref, group_keys_ref = refs[has_bias:]
    routing, step = shape.routing, pl.program_id(0)

    @pl.when(step == 0)
    def clear():
        counts_ref[...] = jnp.zeros_like(counts_ref)

    affinity_Eb = reference.affinities(scores_ref[...], routing.score_function, dim=0)
    keys_ref[...] = _ordered(affinity_Eb + refs[0][...] if has_bias else affinity_Eb)
    if routing.num_groups > 1:
        _discard_groups(keys_ref, group_keys_ref, routing)

    keys_Eb, expert_Eb = keys_ref[...], _iota((shape.experts, block), 0)
    taken_Eb = jnp.zeros((shape.experts, block), jnp.float32)
    sum_1b = jnp.zeros((1, block), jnp.float32)
    for k in range(routing.num_experts_per_token):
        _, expert_1b, keys_Eb = _take_highest(keys_Eb)
        is_chosen_Eb = expert_Eb == expert_1b
        chosen_1b = jnp.where(is_chosen_Eb, affinity_Eb, 0.0).sum(0, keepdims=True)
        taken_Eb = taken_Eb + jnp.where(is_chosen_Eb, 1.0, 0.0)
        sum_1b = sum_1b + chosen_1b
        weights_ref[k : k + 1, :] = routing.scaling * chosen_1b
        experts_ref[k : k + 1, :] = expert_1b
    if routing.normalize:
        weights_ref[...] = weights_ref[...] / (sum_1b + 1e-20)

    # Past the last token a block holds whatever was there before: it counts for nothing.
    taken_Eb = jnp.where(_iota((shape.experts, block), 1) < shape.tokens - step * block, taken_Eb, 0.0)
    before_bb = jnp.where(_iota((block, block), 0) < _iota((block, block), 1), 1.0, 0.0)
    before_Eb = jnp.dot(
        taken_Eb.astype(jnp.bfloat16), before_bb.astype(jnp.bfloat16), preferred_element_type=jnp.float32
    )
    before_Eb = before_Eb + counts_ref[...].astype(jnp.float32)  # exact up to 2^24 tokens
    for k in range(routing.num_experts_per_token):
        is_chosen_Eb = expert_Eb == experts_ref[k : k + 1, :]
        rank_ref[k : k + 1, :] = jnp.where(is_chosen_Eb, before_Eb, 0.0).sum(0, keepdims=True).astype(jnp.int32)
    counts_ref[...] += taken_Eb.sum(1, keepdims=True).astype(jnp.int32)


def _discard_groups(keys_ref, group_keys_ref, routing):
    """All experts that are in none of the best groups become −inf."""
    size = keys_ref.shape[0] // routing.num_groups
    for group in range(routing.num_groups):
        keys_sb, score_1b = keys_ref[group * size : (group + 1) * size, :], 0.0
        for _ in range(routing.best_per_group):
            highest_1b, _, keys_sb = _take_highest(keys_sb)
            score_1b = score_1b + _value(highest_1b)
        group_keys_ref[group : group + 1, :] = _ordered(score_1b)
    group_keys_Gb, is_kept_Gb = group_keys_ref[...], jnp.zeros(group_keys_ref.shape, jnp.int32)
    for _ in range(routing.num_groups_per_token):
        _, group_1b, group_keys_Gb = _take_highest(group_keys_Gb)
        is_kept_Gb = is_kept_Gb | jnp.where(_iota(is_kept_Gb.shape, 0) == group_1b, 1, 0)
    group_keys_ref[...] = is_kept_Gb
    for group in range(routing.num_groups):
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
