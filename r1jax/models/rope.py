"""Rotary positions, in both layouts, with YaRN (spec A.4).

Llama and Qwen checkpoints pair dim i with i + R/2 ("half"); DeepSeek's pair 2i with 2i + 1 ("interleaved").
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.models.config import ModelConfig, Yarn


def yarn_mscale(factor: float, mscale: float) -> float:
    """m(s, a) = 0.1·a·ln s + 1 for s > 1 (spec A.4.3)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def rope_frequencies(dim: int, theta: float, yarn: Yarn | None) -> np.ndarray:
    """Angles per position, [dim/2]; with YaRN high frequencies stay and low ones are divided by the factor (A.4.2)."""
    freqs = theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    if yarn is None:
        return freqs

    def correction(rotations: float) -> float:
        return dim * math.log(yarn.original_length / (2 * math.pi * rotations)) / (2 * math.log(theta))

    low = max(math.floor(correction(yarn.beta_fast)), 0)
    high = min(math.ceil(correction(yarn.beta_slow)), dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / (high - low if high > low else 0.001), 0.0, 1.0)
    return freqs * (1 - ramp) + freqs / yarn.factor * ramp


def rope_angles(config: ModelConfig, positions_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(cos, sin), each [B, T, rotated_dim/2] float32, of 0-based positions."""
    freqs = rope_frequencies(config.rotated_dim, config.rope_theta, config.yarn)
    angles = positions_BT[..., None].astype(jnp.float32) * jnp.asarray(freqs, jnp.float32)
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
