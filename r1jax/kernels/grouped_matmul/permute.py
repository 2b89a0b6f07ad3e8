"""Gather along a bijection of rows."""

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
