"""The routed experts: every row through the SwiGLU of its own expert."""

import jax

from r1jax.kernels import hardware
from r1jax.kernels.dispatch import choose_implementation
from r1jax.kernels.grouped_matmul import pallas_tpu, ragged_dot, reference, xla
from r1jax.kernels.route import Permutation, permutation
from r1jax.sharding import Role

IMPLEMENTATIONS = {
    "reference": reference.expert_ffn,
    "xla": xla.expert_ffn,
    "ragged_dot": ragged_dot.expert_ffn,
    "tokamax": ragged_dot.with_tokamax,
    "pallas_tpu": pallas_tpu.expert_ffn,
}


def expert_ffn(
    x_TD: jax.Array,
    experts_TK: jax.Array,
    weights_TK: jax.Array,
    w_gate_EDF: jax.Array,
    w_up_EDF: jax.Array,
    w_down_EFD: jax.Array,
    *,
    order: Permutation | None = None,
    role: Role = "train",
    implementation: str = "auto",
    interpret=False,
) -> jax.Array:
    """Σ_k weight[t,k] · SwiGLU_{expert[t,k]}(x[t]), [T, D]; no row is dropped (spec A.5.1, step 7).

    ``order``: the routed rows sorted, as ``route_and_sort`` gives them; None: they are sorted here. ``role``: how
    tokens and weights lie on a mesh (``r1jax.sharding.RULES``).

    ``implementation`` and ``interpret``: see ``choose_implementation``. There are "reference", "xla" (loops for a CPU),
    "ragged_dot", "tokamax" (that package's kernels for NVIDIA GPUs, unmeasured) and "pallas_tpu"; "auto" off TPUs is
    "xla" for a CPU, "ragged_dot" elsewhere (unmeasured there). Raises ValueError as ``choose_implementation`` does, and
    for shapes and types that the kernel does not take; ImportError where the package tokamax is missing.
    """
    default = "xla" if hardware.is_cpu() else "ragged_dot"
    function, options = choose_implementation(
        "expert_ffn", implementation, IMPLEMENTATIONS, default=default, interpret=interpret
    )
    options["order"] = permutation(experts_TK, w_gate_EDF.shape[0]) if order is None else order
    if function is pallas_tpu.expert_ffn:
        options["role"] = role
    with jax.named_scope("expert_ffn"):
        return function(x_TD, experts_TK, weights_TK, (w_gate_EDF, w_up_EDF, w_down_EFD), **options)


__all__ = ["expert_ffn"]
