"""Tokens to the devices of their experts and back, once to each device: see ``r1jax.models.expert_parallel``.

Both exchanges run inside ``jax.shard_map``. The pairs (token, destination) are sorted by destination. In round r a device
sends of each destination's pairs those that have room there: the next ``room`` (``all_to_all``), or those whose rank among all
pairs of that receiver is in the round's window (``ragged_all_to_all``).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from r1jax.kernels.grouped_matmul.permute import at_places
from r1jax.kernels.route import Permutation, permutation
from r1jax.models.expert_rounds import in_rounds


def all_to_all(
    here: Callable,
    x_XD: jax.Array,
    experts_XK: jax.Array,
    weights_XK: jax.Array,
    expert_weights,
    *,
    axes: tuple[str, ...],
    copies: int,
    room: int,
) -> jax.Array:
    """Σ over the destinations of a token of what ``here`` gives it there, [X, D] float32; partial where ``here``'s is.

    here: (x [R, D], experts [R, K], weights [R, K], expert_weights) -> [R, D]; experts are numbered over all devices, −1 in a
    row that is no token. copies: the most destinations of a token; room: tokens of one device that another takes a round.
    """
    order = _destinations(experts_XK, expert_weights, axes, copies)
    num_rounds = lax.pmax(-(-jnp.diff(order.offsets).max() // room), axes)
    one_round = functools.partial(_fixed_round, here=here, axes=axes, room=room)
    most = -(-x_XD.shape[0] // room)
    return in_rounds(one_round, num_rounds, (x_XD, weights_XK, expert_weights), (experts_XK, order), most=most)


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


def ragged_all_to_all(here: Callable, x_XD, experts_XK, weights_XK, expert_weights, *, axes, copies, room) -> jax.Array:
    """As ``all_to_all``; a receiver has room for ``room`` tokens times the number of devices, whoever sends them."""
    order = _destinations(experts_XK, expert_weights, axes, copies)
    counts_SR = lax.all_gather(jnp.diff(order.offsets), axes)  # senders, receivers
    size = room * counts_SR.shape[0]
    num_rounds = -(-counts_SR.sum(0).max() // size)
    one_round = functools.partial(_ragged_round, here=here, axes=axes, size=size)
    most = -(-x_XD.shape[0] // room)
    return in_rounds(
        one_round, num_rounds, (x_XD, weights_XK, expert_weights), (experts_XK, order, counts_SR), most=most
    )


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
        return lax.ragged_all_to_all(
            array, jnp.full((rows, *array.shape[1:]), empty, array.dtype), *lengths, axis_name=axes
        )

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


def _destinations(experts_XK, expert_weights, axes, copies: int) -> Permutation:
    """The pairs (token, one of at most ``copies`` devices that hold its experts) by device; those of no device come last."""
    num_devices = lax.axis_size(axes)
    holds_XKn = jax.nn.one_hot(experts_XK // expert_weights[0].shape[0], num_devices, dtype=jnp.int32)
    is_held_XJ, device_XJ = lax.top_k(holds_XKn.max(1), copies)
    return permutation(jnp.where(is_held_XJ > 0, device_XJ, num_devices), num_devices)


def _of_tokens(token_S, experts_XK, weights_XK):
    """Experts and weights of tokens; −1 and 0 where there is no such token."""
    experts_SK = experts_XK.at[token_S].get(mode="fill", fill_value=-1)
    return experts_SK, weights_XK.at[token_S].get(mode="fill", fill_value=0)


def _summed_at(there, x_XD, pair_S, slot_XJ):
    ones_XJ = jnp.ones(slot_XJ.shape, jnp.float32)
    return at_places(there, x_XD, ones_XJ, row_of_place=pair_S, place_TK=slot_XJ).astype(jnp.float32)


EXCHANGES = {"all_to_all": all_to_all, "ragged_all_to_all": ragged_all_to_all}
