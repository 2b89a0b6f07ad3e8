"""What every TPU kernel has in common."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

from r1jax.kernels import hardware

LANES = 128
"""Columns of a tile of VMEM."""
KERNEL_DTYPES = ("bfloat16", "float32")
"""Of attention's and decode's arrays."""
SMEM_TABLE_BYTES = 512 * 1024
"""Half of a TensorCore's scalar memory: the most that a prefetched table may take."""
NN = ((1,), (0,))
"""x · y"""
NT = ((1,), (1,))
"""x · yᵀ"""
TN = ((0,), (0,))
"""xᵀ · y"""


def dot(x: jax.Array, y: jax.Array, *, contracted=NN) -> jax.Array:
    """The product of two matrices, sums in float32; float32 inputs are not rounded to bfloat16 on the way."""
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jax.lax.dot_general(x, y, (contracted, ((), ())), precision=precision, preferred_element_type=jnp.float32)


def compiler_params(generation: str, *dimension_semantics: Any, vmem: float) -> pltpu.CompilerParams:
    """Which grid dims may run in any order ("parallel") or not ("arbitrary"); ``vmem`` is the part of VMEM allowed."""
    limit = int(hardware.info(generation).vmem_capacity_bytes * vmem)
    return pltpu.CompilerParams(dimension_semantics=dimension_semantics, vmem_limit_bytes=limit)
