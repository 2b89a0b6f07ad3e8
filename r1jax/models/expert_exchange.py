"""Tokens to the devices of their experts and back, once to each device, and what experts give the rows that reached
them.

See ``r1jax.models.expert_parallel``. All runs inside ``jax.shard_map``. The pairs (token, destination) are sorted by
destination. In round r a device sends of each destination's pairs those that have room there: the next ``room``
(``all_to_all``), or those whose rank among all pairs of that receiver is in the round's window (``ragged_all_to_all``).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from r1jax.kernels.dispatch import with_gradient
from r1jax.kernels.grouped_matmul import expert_ffn
from r1jax.kernels.grouped_matmul.reference import at_places
from r1jax.kernels.route import Permutation, permutation


def exchanged(
    here: Callable,
    x_XD: jax.Array,
    experts_XK: jax.Array,
    weights_XK: jax.Array,
    expert_weights,
    *,
    way: str,
    axes: tuple[str, ...],
    copies: int,
    room: int,
) -> jax.Array:
    """Σ over the destinations of a token of what ``here`` gives it there, [X, D] float32; partial where ``here``'s is.

    here: (x [R, D], experts [R, K], weights [R, K], expert_weights) -> [R, D]; experts are numbered over all devices,
    −1 in a row that is no token. way: "all_to_all" or "ragged_all_to_all". copies: the most destinations of a token.
    room: tokens of one device that another takes a round; "ragged_all_to_all" has it for all senders together, whoever
    sends them.
    """
    # The pairs (token, device that holds one of its experts) by device; those of no device come last.
    holds_XKn = jax.nn.one_hot(experts_XK // len(expert_weights[0]), lax.axis_size(axes), dtype=jnp.int32)
    is_held_XJ, device_XJ = lax.top_k(holds_XKn.max(1), copies)
    order = permutation(jnp.where(is_held_XJ > 0, device_XJ, lax.axis_size(axes)), lax.axis_size(axes))
    integers: tuple = (experts_XK, order)
    if way == "all_to_all":
        num_rounds = lax.pmax(-(-jnp.diff(order.offsets).max() // room), axes)
        one_round = functools.partial(_fixed_round, here=here, axes=axes, room=room)
    else:
        counts_SR = lax.all_gather(jnp.diff(order.offsets), axes)  # senders, receivers
        integers, size = (*integers, counts_SR), room * counts_SR.shape[0]
        num_rounds = -(-counts_SR.sum(0).max() // size)
        one_round = functools.partial(_ragged_round, here=here, axes=axes, size=size)
    most = -(-x_XD.shape[0] // room)
    return in_rounds(one_round, num_rounds, (x_XD, weights_XK, expert_weights), integers, most=most)


def _fixed_round(r, floats, integers, *, here, axes, room):
    (x_XD, weights_XK, expert_weights), (experts_XK, order) = floats, integers
    starts_n, ends_n = order.offsets[:-1], order.offsets[1:]
    num_pairs, num_slots = order.place_XK.size, len(starts_n) * room
    place_nC = starts_n[:, None] + r * room + jnp.arange(room)
    pair_nC = order.row_of_place.at[place_nC].get(mode="fill", fill_value=0)
    pair_S = jnp.where(place_nC < ends_n[:, None], pair_nC, num_pairs).reshape(-1)
    # The slot of each pair: its destination's, at its rank there less what earlier rounds took.
    to_XJ = jnp.searchsorted(ends_n, order.place_XK, side="right").astype(jnp.int32)
    rank_XJ = order.place_XK - starts_n.at[to_XJ].get(mode="fill", fill_value=0) - r * room
    is_sent_XJ = (order.place_XK < ends_n[-1]) & (rank_XJ >= 0) & (rank_XJ < room)
    slot_XJ = jnp.where(is_sent_XJ, to_XJ * room + rank_XJ, num_slots)
    exchange = functools.partial(lax.all_to_all, axis_name=axes, split_axis=0, concat_axis=0, tiled=True)

    def there(x_SD):
        experts_SK, weights_SK = _of_tokens(pair_S // order.place_XK.shape[1], experts_XK, weights_XK)
        y_SD = here(*map(exchange, (x_SD, experts_SK, weights_SK)), expert_weights)
        return exchange(y_SD.astype(x_SD.dtype))

    return _summed_at(there, x_XD, pair_S, slot_XJ)


def _ragged_round(r, floats, integers, *, here, axes, size):
    (x_XD, weights_XK, expert_weights), (experts_XK, order, counts_SR) = floats, integers
    num_pairs, me = order.place_XK.size, lax.axis_index(axes)
    start_SR, length_SR, arrival_SR = _windows(r, counts_SR, size)
    out = (start_SR[me], length_SR[me], arrival_SR[me], length_SR[:, me])
    back = (arrival_SR[:, me], length_SR[:, me], start_SR[:, me], length_SR[me])
    is_pair = jnp.arange(num_pairs) < order.offsets[-1]
    pair_P = jnp.where(is_pair, order.row_of_place, num_pairs)
    place_XJ = jnp.where(order.place_XK < order.offsets[-1], order.place_XK, num_pairs)

    def exchange(array, lengths, *, rows, empty: Any = 0):
        arrived = jnp.full((rows, *array.shape[1:]), empty, array.dtype)
        return lax.ragged_all_to_all(array, arrived, *lengths, axis_name=axes)

    def there(x_PD):
        experts_PK, weights_PK = _of_tokens(pair_P // order.place_XK.shape[1], experts_XK, weights_XK)
        sent = functools.partial(exchange, lengths=out, rows=size)
        y_RD = here(sent(x_PD), sent(experts_PK, empty=-1), sent(weights_PK), expert_weights)
        return exchange(y_RD.astype(x_PD.dtype), back, rows=num_pairs)

    return _summed_at(there, x_XD, pair_P, place_XJ)


def _windows(r, counts_SR, size):
    """(first pair that each sender sends each receiver, how many, where they arrive) in round r, each int32 [S, R].

    A receiver's pairs are ranked by sender; round r takes the ranks r · size to (r + 1) · size.
    """
    rank_SR = jnp.cumsum(counts_SR, axis=0) - counts_SR
    begin_SR = jnp.clip(r * size - rank_SR, 0, counts_SR)
    length_SR = jnp.clip((r + 1) * size - rank_SR, 0, counts_SR) - begin_SR
    start_SR = jnp.cumsum(counts_SR, axis=1) - counts_SR + begin_SR
    arrival_SR = rank_SR + begin_SR - r * size
    return tuple(jnp.where(length_SR > 0, a, 0) for a in (start_SR, length_SR, arrival_SR))


def _of_tokens(token_S, experts_XK, weights_XK):
    """Experts and weights of tokens; −1 and 0 where there is no such token."""
    experts_SK = experts_XK.at[token_S].get(mode="fill", fill_value=-1)
    return experts_SK, weights_XK.at[token_S].get(mode="fill", fill_value=0)


def _summed_at(there, x_XD, pair_S, slot_XJ):
    ones_XJ = jnp.ones(slot_XJ.shape, jnp.float32)
    return at_places(there, x_XD, ones_XJ, row_of_place=pair_S, place_TK=slot_XJ).astype(jnp.float32)


def in_rounds(one_round: Callable, num_rounds, floats, integers, *, most: int | None = None) -> jax.Array:
    """Σ one_round(r, floats, integers) over r in 0 .. num_rounds − 1, an array.

    The first round is computed always, and its backward pass keeps what autodiff keeps; the others are a loop of as
    many as there are, forward and backward, which keeps its inputs alone and computes again. ``num_rounds``: int32,
    traced; the same on all devices that a round's collectives join; ``most``: it is never more. ``one_round`` closes
    over no traced array: those with gradients are in ``floats``, the others in ``integers``.
    """
    first = one_round(jnp.int32(0), floats, integers)
    return first if most == 1 else first + _further(one_round, jnp.asarray(num_rounds, jnp.int32), floats, integers)


def _further_fwd(one_round, num_rounds, floats, integers):
    out = jax.eval_shape(one_round, jax.ShapeDtypeStruct((), jnp.int32), floats, integers)
    total = _loop(lambda r: one_round(r, floats, integers), num_rounds, jnp.zeros(out.shape, out.dtype))
    return total, (num_rounds, floats, integers)


def _further_bwd(one_round, residuals, dout):
    num_rounds, floats, integers = residuals

    def gradient(r):
        return jax.vjp(lambda floats: one_round(r, floats, integers), floats)[1](dout)[0]

    return None, _loop(gradient, num_rounds, jax.tree.map(jnp.zeros_like, floats)), None


_further = with_gradient(_further_fwd, _further_bwd, static=(0,))


def _loop(function, num_rounds, zeros):
    def add(state):
        r, total = state
        return r + 1, jax.tree.map(jnp.add, total, function(r))

    return jax.lax.while_loop(lambda state: state[0] < num_rounds, add, (jnp.int32(1), zeros))[1]


def local_experts(
    x_RD, experts_RK, weights_RK, expert_weights, *, capacity: int, implementation: str = "auto"
) -> jax.Array:
    """Σ_k weight[r,k] · Expert[r,k](x[r]) over the experts that are here, [R, D] float32, ``capacity`` pairs (r, k) at
    a time.

    experts_RK: 0 to E − 1, or E where that expert is not here. expert_weights: gate and up [E, D, F], down [E, F, D].
    implementation: of ``expert_ffn``.
    """
    order = permutation(experts_RK, len(expert_weights[0]))  # pairs whose expert is elsewhere come last
    num_rounds = -(-order.offsets[-1] // capacity)
    one_round = functools.partial(_some_pairs, capacity=capacity, implementation=implementation)
    most = -(-experts_RK.size // capacity)
    return in_rounds(one_round, num_rounds, (x_RD, weights_RK, expert_weights), (experts_RK, order), most=most)


def _some_pairs(r, floats, integers, *, capacity, implementation):
    (x_RD, weights_RK, expert_weights), (experts_RK, order) = floats, integers
    num_rows, num_experts = experts_RK.shape[0], expert_weights[0].shape[0]
    place_C = jnp.arange(capacity, dtype=jnp.int32)
    offsets = jnp.clip(order.offsets - r * capacity, 0, capacity)
    is_pair_C = place_C < offsets[-1]
    pair_C = order.row_of_place.at[r * capacity + place_C].get(mode="fill", fill_value=0)
    pair_C = jnp.where(is_pair_C, pair_C, experts_RK.size)
    row_C = jnp.where(is_pair_C, pair_C // experts_RK.shape[1], num_rows)
    x_CD = x_RD.at[row_C].get(mode="fill", fill_value=0)
    weights_C = weights_RK.reshape(-1).at[pair_C].get(mode="fill", fill_value=0)
    experts_C1 = experts_RK.reshape(-1).at[pair_C].get(mode="fill", fill_value=num_experts)[:, None]
    here_C = jnp.where(is_pair_C, place_C, capacity)  # they are sorted already; past the last there is no row
    options = {"order": Permutation(here_C, here_C[:, None], offsets), "implementation": implementation}
    y_CD = expert_ffn(x_CD, experts_C1, jnp.ones_like(experts_C1, weights_C.dtype), *expert_weights, **options)
    y_CD = y_CD.astype(jnp.float32) * weights_C[:, None]
    return jnp.zeros((num_rows, x_RD.shape[1]), jnp.float32).at[row_C].add(y_CD, mode="drop")
