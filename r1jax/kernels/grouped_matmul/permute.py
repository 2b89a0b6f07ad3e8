"""Routed rows to their places and back: gathers along a bijection."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def permute(x_ID: jax.Array, source_O: jax.Array, targets_IC: jax.Array) -> jax.Array:
    """out[o] = x[source[o]], zero where source is I; ``targets`` lists the C outputs that read each input.

    The transpose of such a gather is a gather too: autodiff, which cannot know, would make it a scatter-add.
    """
    return jnp.asarray(x_ID).at[source_O].get(mode="fill", fill_value=0)


def _permute_fwd(x_ID, source_O, targets_IC):
    return permute(x_ID, source_O, targets_IC), targets_IC


def _permute_bwd(targets_IC, dout_OD):
    return dout_OD.at[targets_IC].get(mode="fill", fill_value=0).sum(axis=1), None, None


permute.defvjp(_permute_fwd, _permute_bwd)


def at_places(function, x_TD: jax.Array, weights_TK: jax.Array, *, row_of_place: jax.Array, place_TK: jax.Array):
    """Σ_k weight[t,k] · y[place[t,k]], [T, D], where y is ``function`` of the rows of x at their places.

    ``row_of_place``: the routed row token · K + k, or T·K where there is none; the place holds zeros then.
    """
    x_PD = permute(x_TD, row_of_place // place_TK.shape[1], place_TK)
    y_TKD = permute(function(x_PD), place_TK.reshape(-1), row_of_place[:, None]).reshape(*place_TK.shape, -1)
    dtype = x_TD.dtype
    return jnp.einsum("tkd,tk->td", y_TKD, weights_TK.astype(dtype), preferred_element_type=jnp.float32).astype(dtype)
