"""cuDNN's fused attention, for NVIDIA GPUs, through ``jax.nn.dot_product_attention``. Unmeasured: no GPU was at hand.

What cuDNN has not is expressed in what it has. Segments are a mask, which it takes as an array [B, 1, T, S] of the
inputs' type and gives a gradient of the same size: 2 · T · S bytes a sequence each, 32 MiB for 4,096 tokens and 2 GiB
for 32,768, so this is for short rows; "xla" has linear memory. The diagonal is cuDNN's own mask where the queries start
at the first key, which skips the blocks above it; part of that array elsewhere. Values narrower than the keys (MLA) are
filled up with zeros to their size. A row of which all is hidden, cuDNN's mean of all values, is set to 0, as is its
gradient.
"""

import jax
import jax.numpy as jnp

from r1jax.kernels import hardware
from r1jax.kernels.flash_attention.reference import attention_mask

_DTYPES = ("bfloat16", "float16")
_HEAD_DIM, _HEAD_DIM_HOPPER = 128, 256
"""The most for a key, and from compute capability 9.0 on."""


def flash_attention(
    q_BTNH, k_BSJH, v_BSJU, *, q_segments_BT, kv_segments_BS, scale: float, q_prefixes_BT=None, q_offset=0
) -> jax.Array:
    """See ``r1jax.kernels.flash_attention.flash_attention``; keys are in one part."""
    hardware.require_nvidia_gpu("flash_attention", "cudnn")
    _check(q_BTNH, k_BSJH, v_BSJU)
    value_dim = v_BSJU.shape[-1]
    v_BSJH = jnp.pad(v_BSJU, ((0, 0), (0, 0), (0, 0), (0, k_BSJH.shape[-1] - value_dim)))
    mask_BTS = attention_mask(q_segments_BT, kv_segments_BS, q_prefixes_BT=q_prefixes_BT, q_offset=q_offset)
    out_BTNH = jax.nn.dot_product_attention(
        q_BTNH, k_BSJH, v_BSJH, mask=mask_BTS[:, None], scale=float(scale), implementation="cudnn",
        is_causal=isinstance(q_offset, int) and q_offset == 0,
    )  # fmt: skip
    return jnp.where(mask_BTS.any(-1)[:, :, None, None], out_BTNH[..., :value_dim], 0)


def _check(q_BTNH, k_BSJH, v_BSJU) -> None:
    types = {str(a.dtype) for a in (q_BTNH, k_BSJH, v_BSJU)}
    if len(types) > 1 or not types <= set(_DTYPES):
        raise ValueError(
            f"flash_attention: cudnn takes arrays of one type, {' or '.join(_DTYPES)}, not {sorted(types)}"
        )
    head_dim, value_dim = k_BSJH.shape[-1], v_BSJU.shape[-1]
    most = _HEAD_DIM_HOPPER if hardware.gpu_capability() >= (9, 0) else _HEAD_DIM
    if head_dim % 8 or head_dim > most or value_dim > head_dim:
        raise ValueError(
            f"flash_attention: cudnn supports keys in multiples of 8 up to {_HEAD_DIM}, from compute capability 9.0 on up to "
            f"{_HEAD_DIM_HOPPER}, and values no wider than keys, not keys of {head_dim} with values of {value_dim}"
        )
    if q_BTNH.shape[1] % 2 or k_BSJH.shape[1] % 2:
        raise ValueError(
            f"flash_attention: cudnn supports masks of an even number of queries and of keys, not {q_BTNH.shape[1]} and "
            f"{k_BSJH.shape[1]}"
        )
