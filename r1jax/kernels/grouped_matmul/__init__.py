"""The routed experts: every row through the SwiGLU of its own expert."""

import jax

from r1jax.kernels.grouped_matmul import reference, xla

IMPLEMENTATIONS = {"reference": reference.expert_ffn, "xla": xla.expert_ffn}


def expert_ffn(x_TD, experts_TK, weights_TK, w_gate_EDF, w_up_EDF, w_down_EFD, *, implementation: str | None = None):
    """Σ_k weight[t,k] · SwiGLU_{expert[t,k]}(x[t]), [T, D]; no row is dropped (spec A.5.1, step 7).

    ``implementation`` None takes "xla"; an unknown name raises ValueError.
    """
    name = implementation or "xla"
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"expert_ffn has no implementation {name!r}; choose from {sorted(IMPLEMENTATIONS)}")
    with jax.named_scope("expert_ffn"):
        return IMPLEMENTATIONS[name](x_TD, experts_TK, weights_TK, w_gate_EDF, w_up_EDF, w_down_EFD)


__all__ = ["expert_ffn"]
