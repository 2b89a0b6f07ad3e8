"""The definition: every expert computes every row, and a one-hot weight picks. E/K times the needed work.

And what the faster ones share: rows to their places and back, gathers along a bijection. The transpose of such a gather
is a gather too: autodiff, which cannot know, would make it a scatter-add.
"""

import jax
import jax.numpy as jnp

from r1jax.kernels.dispatch import with_gradient


def expert_ffn(x_TD, experts_TK, weights_TK, expert_weights, *, order=None):
    """See ``r1jax.kernels.grouped_matmul.expert_ffn``; no row moves, so ``order`` says nothing here."""
    dtype, (w_gate_EDF, w_up_EDF, w_down_EFD) = x_TD.dtype, expert_weights
    pick_TE = (jax.nn.one_hot(experts_TK, w_gate_EDF.shape[0]) * weights_TK[..., None]).sum(axis=1)
    gate_TEF = jnp.einsum("td,edf->tef", x_TD, w_gate_EDF.astype(dtype), preferred_element_type=jnp.float32)
    up_TEF = jnp.einsum("td,edf->tef", x_TD, w_up_EDF.astype(dtype), preferred_element_type=jnp.float32)
    hidden_TEF = (jax.nn.silu(gate_TEF) * up_TEF * pick_TE[..., None]).astype(dtype)
    out_TD = jnp.einsum("tef,efd->td", hidden_TEF, w_down_EFD.astype(dtype), preferred_element_type=jnp.float32)
    return out_TD.astype(dtype)


def _permute_fwd(x_ID, source_O, targets_IC):
    """out[o] = x[source[o]], zero where source is I; ``targets`` lists the C outputs that read each input."""
    return jnp.asarray(x_ID).at[source_O].get(mode="fill", fill_value=0), targets_IC


def _permute_bwd(targets_IC, dout_OD):
    return dout_OD.at[targets_IC].get(mode="fill", fill_value=0).sum(axis=1), None, None


permute = with_gradient(_permute_fwd, _permute_bwd)


def at_places(function, x_TD: jax.Array, weights_TK: jax.Array, *, row_of_place: jax.Array, place_TK: jax.Array):
    """Σ_k weight[t,k] · y[place[t,k]], [T, D], where y is ``function`` of the rows of x at their places.

    ``row_of_place``: the routed row token · K + k, or T·K where there is none; the place holds zeros then.
    """
    x_PD = permute(x_TD, row_of_place // place_TK.shape[1], place_TK)
    y_TKD = permute(function(x_PD), place_TK.reshape(-1), row_of_place[:, None]).reshape(*place_TK.shape, -1)
    dtype = x_TD.dtype
    return jnp.einsum("tkd,tk->td", y_TKD, weights_TK.astype(dtype), preferred_element_type=jnp.float32).astype(dtype)
