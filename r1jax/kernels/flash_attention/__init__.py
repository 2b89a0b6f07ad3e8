"""Causal attention within segments."""

import jax

from r1jax.kernels.flash_attention import reference, xla
from r1jax.kernels.flash_attention.reference import attention, attention_mask

IMPLEMENTATIONS = {"reference": reference.flash_attention, "xla": xla.flash_attention}
SHORT = 256
"""Up to so many queries the whole square of scores is faster on a CPU than blocks of it."""


def flash_attention(
    q_BTNH: jax.Array,
    k_BSJH: jax.Array,
    v_BSJU: jax.Array,
    *,
    q_segments_BT: jax.Array,
    kv_segments_BS: jax.Array,
    scale: float,
    implementation: str | None = None,
) -> jax.Array:
    """Attention among tokens that start at the same position: softmax(scale · q kᵀ) v, [B, T, N, U] (spec A.3.1).

    A query sees the keys of its own segment up to itself; N/J consecutive query heads share a key head. Segment 0 is
    padding: the output of a query that sees nothing is 0. Scores and softmax are float32, products take the inputs' type.

    ``implementation``: "reference", "xla" (blocks, linear memory), or None for the faster of the two.
    Raises ValueError for an unknown implementation or heads that key heads do not divide.
    """
    name = implementation or ("reference" if q_BTNH.shape[1] <= SHORT else "xla")
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"flash_attention has no implementation {name!r}; choose from {sorted(IMPLEMENTATIONS)}")
    if q_BTNH.shape[2] % k_BSJH.shape[2]:
        raise ValueError(f"flash_attention: {q_BTNH.shape[2]} query heads for {k_BSJH.shape[2]} key heads")
    options = {"q_segments_BT": q_segments_BT, "kv_segments_BS": kv_segments_BS, "scale": scale}
    return IMPLEMENTATIONS[name](q_BTNH, k_BSJH, v_BSJU, **options)


__all__ = ["attention", "attention_mask", "flash_attention"]
