"""FP8 weights as DeepSeek publishes them: e4m3 with one scale a block of 128 × 128 (V3 Sec. 3.3; spec A.7.1).

A weight W [out, in] is stored as `<name>` in float8_e4m3fn and `<name>_scale_inv` [ceil(out/128), ceil(in/128)], by
which it is *multiplied*: W[r, c] = float32(stored[r, c]) · scale_inv[r // 128, c // 128]. Edge blocks are smaller.
Scales are float32, or powers of two (float32 or float8_e8m0fnu).
"""

import re
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

BLOCK = 128
SCALE_SUFFIX = "_scale_inv"
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
_LARGEST = float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)  # 448
_LINEAR = re.compile(r"\.(self_attn|mlp)\.(.*\.)?\w+_proj(_with_mqa)?\.weight$")
_VALUES = np.arange(256, dtype=np.uint8).view(E4M3).astype(np.float32)

QUANTIZATION_CONFIG = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [BLOCK, BLOCK],
}
"""What config.json says of such a checkpoint."""


def quantisation_faults(quantization: Mapping[str, Any] | None) -> list[str]:
    """A line for each value of `quantization_config` that is not block-scaled FP8 as above."""
    known = {"quant_method": ("fp8",), "fmt": ("e4m3", None), "weight_block_size": ([BLOCK, BLOCK],)}
    known |= {"activation_scheme": ("dynamic", None), "scale_fmt": ("ue8m0", "float", None)}
    if quantization is None:
        return []
    if not isinstance(quantization, Mapping):
        return [f"config.json: quantization_config={quantization!r} is not an object"]
    return [
        f"config.json: quantization_config.{key}={quantization.get(key)!r} is not supported; known: {values}"
        for key, values in known.items()
        if quantization.get(key) not in values
    ]


def is_quantised(name: str) -> bool:
    """Whether the released checkpoints store this Hugging Face tensor in FP8.

    All projections of attention, dense MLP and experts; not embeddings, head, norms, router, biases, eh_proj.
    """
    return _LINEAR.search(name) is not None


def scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the scales of a weight: [576, 7168] has [5, 56]."""
    return tuple(-(-size // BLOCK) for size in shape)


def quantise(weight: np.ndarray, *, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(e4m3 weight, float32 scales) of a weight [out, in]: a block's largest magnitude becomes 448.

    A block of zeros has scale 1. ValueError names a weight that holds a NaN or an infinity.
    """
    scales = np.ones(scale_shape(weight.shape), np.float32)
    stored = np.empty(weight.shape, E4M3)
    for row in range(scales.shape[0]):
        rows = slice(row * BLOCK, (row + 1) * BLOCK)
        strip = weight[rows].astype(np.float32)
        largest = np.maximum.reduceat(np.abs(strip).max(axis=0), range(0, strip.shape[1], BLOCK))
        if not np.isfinite(largest).all():
            raise ValueError(f"{name} holds a value that is not finite; it cannot be written as FP8")
        scale = largest / np.float32(_LARGEST)
        scales[row] = np.where(scale > 0, scale, np.float32(1))
        stored[rows] = np.clip(strip / np.repeat(scales[row], BLOCK)[: strip.shape[1]], -_LARGEST, _LARGEST).astype(
            E4M3
        )
    return stored, scales


def dequantise(stored: np.ndarray, scales: np.ndarray, part: tuple[slice, ...] | None = None) -> np.ndarray:
    """Float32 values of an FP8 weight [out, in] with these scales.

    part: `stored` is these slices (start and stop) of the weight alone; `scales` are all of its scales.
    """
    rows, columns = part or tuple(slice(0, size) for size in stored.shape)
    scale_columns = np.arange(columns.start, columns.stop) // BLOCK
    out = np.empty(stored.shape, np.float32)
    for block in range(rows.start // BLOCK, -(-rows.stop // BLOCK)):
        strip = slice(max(block * BLOCK - rows.start, 0), (block + 1) * BLOCK - rows.start)
        out[strip] = _VALUES[np.ascontiguousarray(stored[strip]).view(np.uint8)]
        out[strip] *= scales[block].astype(np.float32)[scale_columns]
    return out
