"""Routed experts as three ``jax.lax.ragged_dot`` over the sorted rows: the path of a GPU.

XLA knows the operation, so it can partition it, as it cannot a kernel. Unmeasured: that this is the default there is a
judgement against ``xla``, whose loop over experts in float32 is made for a CPU. Where an XLA has no grouped matmul it
masks the rows once an expert, E times the work; its CPU does.

``with_tokamax`` takes that package's ragged_dot, which has kernels in Triton and, for Hopper and Blackwell, in Mosaic.
Unmeasured too: no GPU was at hand. tokamax is in no list of requirements: ``pip install tokamax`` brings it.
"""

import functools
import importlib.util

import jax
import jax.numpy as jnp

from r1jax.kernels import hardware
from r1jax.kernels.grouped_matmul.reference import at_places
from r1jax.kernels.route import Permutation


def expert_ffn(
    x_TD, experts_TK, weights_TK, expert_weights, *, order: Permutation, ragged_dot=jax.lax.ragged_dot
) -> jax.Array:
    """See ``r1jax.kernels.grouped_matmul.expert_ffn``; products take x's type, sums are float32."""
    dtype = x_TD.dtype
    w_gate_EDF, w_up_EDF, w_down_EFD = (w.astype(dtype) for w in expert_weights)
    product = functools.partial(ragged_dot, group_sizes=jnp.diff(order.offsets), preferred_element_type=jnp.float32)

    def through_experts(x_RD):
        hidden_RF = jax.nn.silu(product(x_RD, w_gate_EDF)) * product(x_RD, w_up_EDF)
        return product(hidden_RF.astype(dtype), w_down_EFD).astype(dtype)

    return at_places(through_experts, x_TD, weights_TK, row_of_place=order.row_of_place, place_TK=order.place_XK)


def with_tokamax(*arrays, order: Permutation) -> jax.Array:
    """See ``r1jax.kernels.grouped_matmul.expert_ffn``. The first of its kernels that runs on the device is taken.

    Raises ImportError where tokamax is not installed.
    """
    hardware.require_nvidia_gpu("expert_ffn", "tokamax")
    if importlib.util.find_spec("tokamax") is None:
        raise ImportError("expert_ffn: implementation 'tokamax' needs the package tokamax: pip install tokamax")
    tokamax = importlib.import_module("tokamax")
    product = functools.partial(tokamax.ragged_dot, implementation=("mosaic", "triton"))
    return expert_ffn(*arrays, order=order, ragged_dot=product)
