"""Causal attention within segments."""

import jax

from r1jax.kernels.dispatch import choose_implementation
from r1jax.kernels.flash_attention import cudnn, pallas_tpu, reference, xla
from r1jax.kernels.flash_attention.reference import attention, attention_mask, with_rope

IMPLEMENTATIONS = {
    "reference": reference.flash_attention,
    "xla": xla.flash_attention,
    "cudnn": cudnn.flash_attention,
    "pallas_tpu": pallas_tpu.flash_attention,
}
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
    q_prefixes_BT: jax.Array | None = None,
    q_offset: int | jax.Array = 0,
    q_rope_BTNR: jax.Array | None = None,
    k_rope_BSR: jax.Array | None = None,
    implementation: str = "auto",
    interpret=False,
) -> jax.Array:
    """softmax(scale · q kᵀ) v, [B, T, N, U] (spec A.3.1), with gradients of q, k, v and the rope parts.

    Query t, at position t + ``q_offset``, sees the keys up to its position of its own segment and of its prefix
    (``q_prefixes_BT``, 0 for none): a segment that several others go on from. Segment 0 is padding. N/J consecutive
    query heads share a key head. The output of a query that sees nothing is 0. Scores and softmax are float32, products
    take the inputs' type. ``q_offset``: a number or an int32 scalar (chunked prefill). With
    ``q_rope_BTNR`` and ``k_rope_BSR`` the scores are scale · (q kᵀ + q_rope k_ropeᵀ), k_rope shared by all heads (MLA,
    V3 Sec. 2.1.1).

    ``implementation`` and ``interpret``: see ``choose_implementation``. There are "reference"; "xla" (blocks, linear
    memory); "pallas_tpu"; and "cudnn" on an NVIDIA GPU, unmeasured; "auto" off TPUs is the faster of the first two.
    Raises ValueError as ``choose_implementation`` does, for heads that key heads do not divide, one rope part without
    the other, and, for the kernel and cudnn, types or sizes that they do not support.
    """
    short = "reference" if q_BTNH.shape[1] <= SHORT else "xla"
    function, interpreted = choose_implementation(
        "flash_attention", implementation, IMPLEMENTATIONS, default=short, interpret=interpret
    )
    if q_BTNH.shape[2] % k_BSJH.shape[2]:
        raise ValueError(f"flash_attention: {q_BTNH.shape[2]} query heads for {k_BSJH.shape[2]} key heads")
    if (q_rope_BTNR is None) != (k_rope_BSR is None):
        raise ValueError("flash_attention: q_rope_BTNR and k_rope_BSR are given together or not at all")
    options: dict = {"q_segments_BT": q_segments_BT, "kv_segments_BS": kv_segments_BS, "scale": scale}
    options |= {"q_prefixes_BT": q_prefixes_BT, "q_offset": q_offset}
    if function is pallas_tpu.flash_attention:
        options |= {"q_rope_BTNR": q_rope_BTNR, "k_rope_BSR": k_rope_BSR}
    elif q_rope_BTNR is not None and k_rope_BSR is not None:
        q_BTNH, k_BSJH = with_rope(q_BTNH, k_BSJH, q_rope_BTNR, k_rope_BSR)
    return function(q_BTNH, k_BSJH, v_BSJU, **options, **interpreted)


__all__ = ["attention", "attention_mask", "flash_attention", "with_rope"]
