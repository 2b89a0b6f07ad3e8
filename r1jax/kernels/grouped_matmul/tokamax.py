"""``ragged_dot``'s three products by tokamax, for NVIDIA GPUs. Unmeasured: no GPU was at hand.

What it adds: XLA's ragged_dot on a GPU masks the rows once an expert, E times the work, where no fused one is switched on;
tokamax has kernels in Triton and, for Hopper and Blackwell, in Mosaic. It takes the first of these that runs on the device.
tokamax is in no list of requirements: ``pip install tokamax`` brings it.
"""

import importlib
import importlib.util

from r1jax.kernels import hardware
from r1jax.kernels.grouped_matmul import ragged_dot
from r1jax.kernels.route import Permutation

KERNELS = ("mosaic", "triton")
"""tokamax's names, in the order in which they are tried."""


def expert_ffn(x_TD, experts_TK, weights_TK, w_gate_EDF, w_up_EDF, w_down_EFD, *, order: Permutation):
    """See ``r1jax.kernels.grouped_matmul.expert_ffn``. Raises ImportError where tokamax is not installed."""
    hardware.require_nvidia_gpu("expert_ffn", "tokamax")
    if importlib.util.find_spec("tokamax") is None:
        raise ImportError("expert_ffn: implementation 'tokamax' needs the package tokamax: pip install tokamax")
    tokamax = importlib.import_module("tokamax")

    def product(rows_RI, w_EIO, *, group_sizes, preferred_element_type):
        options = {"preferred_element_type": preferred_element_type, "implementation": KERNELS}
        return tokamax.ragged_dot(rows_RI, w_EIO, group_sizes, **options)

    weights = (w_gate_EDF, w_up_EDF, w_down_EFD)
    return ragged_dot.expert_ffn(x_TD, experts_TK, weights_TK, *weights, order=order, ragged_dot=product)
