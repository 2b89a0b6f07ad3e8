"""Rotary positions, in both layouts, with YaRN (spec A.4) and Llama 3.1's scaling (spec A.8.2).

Llama and Qwen checkpoints pair dim i with i + R/2 ("half"); DeepSeek's pair 2i with 2i + 1 ("interleaved").
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.models.config import Llama3Rope, ModelConfig, Yarn


def yarn_mscale(factor: float, mscale: float) -> float:
    """m(s, a) = 0.1·a·ln s + 1 for s > 1 (spec A.4.3)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def rope_frequencies(dim: int, theta: float, scaling: Yarn | Llama3Rope | None) -> np.ndarray:
    """Angles per position, [dim/2] float32; scaled, high frequencies stay and low ones are divided by the factor.

    In float32 step by step, as the released code computes them: one unit in the last place of a frequency is 0.01
    radians at position 131,072.
    """
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    freqs = 1 / np.power(theta, exponents.astype(np.float64)).astype(np.float32)
    if isinstance(scaling, Yarn):
        kept = _yarn_share(dim, theta, scaling)
    elif isinstance(scaling, Llama3Rope):
        kept = _llama3_share(freqs, scaling)
    else:
        return freqs
    return freqs / np.float32(scaling.factor) * (1 - kept) + freqs * kept


def _yarn_share(dim: int, theta: float, yarn: Yarn) -> np.ndarray:
    """Share of each frequency that is kept: a ramp over dims, from beta_fast to beta_slow turns in the original length."""

    def correction(rotations: float) -> float:
        return dim * math.log(yarn.original_length / (2 * math.pi * rotations)) / (2 * math.log(theta))

    low = max(math.floor(correction(yarn.beta_fast)), 0)
    high = min(math.ceil(correction(yarn.beta_slow)), dim - 1)
    ramp = (np.arange(dim // 2, dtype=np.float32) - low) / (high - low if high > low else 0.001)
    return 1 - np.clip(ramp, 0.0, 1.0).astype(np.float32)


def _llama3_share(freqs: np.ndarray, rope: Llama3Rope) -> np.ndarray:
    """The ramp runs over turns in the original length: none up to low_freq_factor, all from high_freq_factor."""
    turns = rope.original_length / (np.float32(2 * np.pi) / freqs)
    share = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    return np.clip(share, 0.0, 1.0).astype(np.float32)


def rope_angles(config: ModelConfig, positions_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(cos, sin), each [B, T, rotated_dim/2] float32, of 0-based positions."""
    freqs = rope_frequencies(config.rotated_dim, config.rope_theta, config.yarn or config.llama3_rope)
    angles = positions_BT[..., None].astype(jnp.float32) * jnp.asarray(freqs)
    multiplier = 1.0
    if config.yarn:
        yarn = config.yarn
        multiplier = yarn_mscale(yarn.factor, yarn.mscale) / yarn_mscale(yarn.factor, yarn.mscale_all_dim)
    return jnp.cos(angles) * multiplier, jnp.sin(angles) * multiplier


def apply_rope(x: jax.Array, cos: jax.Array, sin: jax.Array, *, interleaved: bool) -> jax.Array:
    """Turn the last dim of x [B, T, ..., R] by angles [B, T, R/2]; heads, if any, are between."""
    shape = cos.shape[:2] + (1,) * (x.ndim - 3) + cos.shape[2:]
    cos, sin = cos.reshape(shape), sin.reshape(shape)
    x32 = x.astype(jnp.float32)
    if interleaved:
        pairs = x32.reshape(*x.shape[:-1], -1, 2)
        first, second = pairs[..., 0], pairs[..., 1]
        turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-1).reshape(x.shape)
    else:
        first, second = jnp.split(x32, 2, axis=-1)
        turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
