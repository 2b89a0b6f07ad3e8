"""Parameters with logical axes, matmuls with float32 accumulation, RMSNorm and SwiGLU."""

import jax
import jax.numpy as jnp
from flax import nnx


class Buffer(nnx.Variable):
    """State that no optimizer touches: the router's selection bias."""


def param(rngs: nnx.Rngs, shape: tuple[int, ...], *, axes: tuple[str | None, ...], std: float) -> nnx.Param:
    """Normal(0, std) float32 parameter; std 0 gives zeros. ``axes`` are logical axes, one a dim."""
    value = jax.random.normal(rngs.params(), shape) * std if std else jnp.zeros(shape)
    return nnx.Param(value, axes=axes)


def project(spec: str, x: jax.Array, w) -> jax.Array:
    """Einsum of activations with a weight: inputs in x's type, sums in float32, result in x's type.

    On XLA's CPU a bfloat16 dot with float32 result is about four times faster than a plain one; on TPU it is what the
    matrix unit does anyway.
    """
    return jnp.einsum(spec, x, jnp.asarray(w).astype(x.dtype), preferred_element_type=jnp.float32).astype(x.dtype)


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
        gate_BTF = project("btd,df->btf", x_BTD, self.w_gate_DF)
        up_BTF = project("btd,df->btf", x_BTD, self.w_up_DF)
        return project("btf,fd->btd", jax.nn.silu(gate_BTF) * up_BTF, self.w_down_FD)
