"""Parameters with logical axes, matmuls with float32 accumulation, RMSNorm and SwiGLU."""

import math

import jax
import jax.numpy as jnp
from flax import nnx


class Buffer(nnx.Variable):
    """State that no optimizer touches: the router's selection bias."""


def param(rngs: nnx.Rngs, shape: tuple[int, ...], *, axes: tuple[str | None, ...], std: float) -> nnx.Param:
    """Normal(0, std) float32 parameter; std 0 gives zeros. ``axes`` are logical axes, one a dim."""
    value = jax.random.normal(rngs.params(), shape) * std if std else jnp.zeros(shape)
    return nnx.Param(value, axes=axes)


def project(x: jax.Array, w, *, num_contracted: int = 1) -> jax.Array:
    """The last ``num_contracted`` dims of x with the first of w: inputs in x's type, sums in float32, result in x's
    type.

    Written as one 2-D matmul: the backward of a 3-D einsum takes 1.7 times as long on XLA's CPU. There a bfloat16 dot
    with float32 result is also about four times faster than a plain one; on TPU it is what the matrix unit does anyway.
    """
    w = jnp.asarray(w).astype(x.dtype)
    batch_dims, out_dims = x.shape[: x.ndim - num_contracted], w.shape[num_contracted:]
    contracted = math.prod(w.shape[:num_contracted])
    out = jnp.matmul(x.reshape(-1, contracted), w.reshape(contracted, -1), preferred_element_type=jnp.float32)
    return out.astype(x.dtype).reshape(*batch_dims, *out_dims)


class RMSNorm(nnx.Module):
    """x · rsqrt(mean(x²) + eps) · scale, statistics and product in float32 (spec A.2)."""

    def __init__(self, dim: int, *, eps: float):
        self.scale = nnx.Param(jnp.ones((dim,)), axes=(None,))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        return (x32 * self.scale[...]).astype(x.dtype)


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) ⊙ up(x)) (spec A.2)."""

    def __init__(self, dim: int, ffn_dim: int, *, std: float, rngs: nnx.Rngs):
        self.w_gate_DF = param(rngs, (dim, ffn_dim), axes=("embed", "mlp"), std=std)
        self.w_up_DF = param(rngs, (dim, ffn_dim), axes=("embed", "mlp"), std=std)
        self.w_down_FD = param(rngs, (ffn_dim, dim), axes=("mlp", "embed"), std=std)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        gate_BTF = project(x_BTD, self.w_gate_DF)
        up_BTF = project(x_BTD, self.w_up_DF)
        return project(jax.nn.silu(gate_BTF) * up_BTF, self.w_down_FD)
