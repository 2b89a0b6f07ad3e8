"""The definition: every expert computes every row, and a one-hot weight picks. E/K times the needed work."""

import jax
import jax.numpy as jnp


def expert_ffn(x_TD, experts_TK, weights_TK, w_gate_EDF, w_up_EDF, w_down_EFD, *, order=None):
    """See ``r1jax.kernels.grouped_matmul.expert_ffn``; no row moves, so ``order`` says nothing here."""
    num_experts = w_gate_EDF.shape[0]
    pick_TE = (jax.nn.one_hot(experts_TK, num_experts) * weights_TK[..., None]).sum(axis=1)
    dtype = x_TD.dtype
    gate_TEF = jnp.einsum("td,edf->tef", x_TD, w_gate_EDF.astype(dtype), preferred_element_type=jnp.float32)
    up_TEF = jnp.einsum("td,edf->tef", x_TD, w_up_EDF.astype(dtype), preferred_element_type=jnp.float32)
    hidden_TEF = (jax.nn.silu(gate_TEF) * up_TEF * pick_TE[..., None]).astype(dtype)
    out_TD = jnp.einsum("tef,efd->td", hidden_TEF, w_down_EFD.astype(dtype), preferred_element_type=jnp.float32)
    return out_TD.astype(dtype)
