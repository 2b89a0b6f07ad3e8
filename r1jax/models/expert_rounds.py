"""Work of unknown size in rounds of a fixed one, and what the experts of one device give the rows that reached it."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from r1jax.kernels.grouped_matmul import expert_ffn
from r1jax.kernels.route import Permutation, permutation


def in_rounds(one_round: Callable, num_rounds, floats, integers, *, most: int | None = None) -> jax.Array:
    """Σ one_round(r, floats, integers) over r in 0 .. num_rounds − 1, an array.

    The first round is computed always, and its backward pass keeps what autodiff keeps; the others are a loop of as many as
    there are, forward and backward, which keeps its inputs alone and computes again. ``num_rounds``: int32, traced; the same on
    all devices that a round's collectives join; ``most``: it is never more. ``one_round`` closes over no traced array:
    those with gradients are in ``floats``, the others in ``integers``.
    """
    first = one_round(jnp.int32(0), floats, integers)
    return first if most == 1 else first + _further(one_round, jnp.asarray(num_rounds, jnp.int32), floats, integers)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _further(one_round, num_rounds, floats, integers):
    out = jax.eval_shape(one_round, jax.ShapeDtypeStruct((), jnp.int32), floats, integers)
    return _loop(lambda r: one_round(r, floats, integers), num_rounds, jnp.zeros(out.shape, out.dtype))


def _further_fwd(one_round, num_rounds, floats, integers):
    return _further(one_round, num_rounds, floats, integers), (num_rounds, floats, integers)


def _further_bwd(one_round, residuals, dout):
    num_rounds, floats, integers = residuals

    def gradient(r):
        return jax.vjp(lambda floats: one_round(r, floats, integers), floats)[1](dout)[0]

    return None, _loop(gradient, num_rounds, jax.tree.map(jnp.zeros_like, floats)), None


_further.defvjp(_further_fwd, _further_bwd)


def _loop(function, num_rounds, zeros):
    def add(state):
        r, total = state
        return r + 1, jax.tree.map(jnp.add, total, function(r))

    return jax.lax.while_loop(lambda state: state[0] < num_rounds, add, (jnp.int32(1), zeros))[1]


def local_experts(
    x_RD, experts_RK, weights_RK, expert_weights, *, capacity: int, implementation: str = "auto"
) -> jax.Array:
    """Σ_k weight[r,k] · Expert[r,k](x[r]) over the experts that are here, [R, D] float32, ``capacity`` pairs (r, k) at a time.

    experts_RK: 0 to E − 1, or E where that expert is not here. expert_weights: gate and up [E, D, F], down [E, F, D].
    implementation: of ``expert_ffn``.
    """
    order = permutation(experts_RK, expert_weights[0].shape[0])  # pairs whose expert is elsewhere come last
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
    y_CD = expert_ffn(
        x_CD,
        experts_C1,
        jnp.ones_like(experts_C1, weights_C.dtype),
        *expert_weights,
        order=Permutation(here_C, here_C[:, None], offsets),
        implementation=implementation,
    )
    y_CD = y_CD.astype(jnp.float32) * weights_C[:, None]
    return jnp.zeros((num_rows, x_RD.shape[1]), jnp.float32).at[row_C].add(y_CD, mode="drop")
