"""Which TPU generation a program is traced for, what that generation has, and what all TPU kernels share.

A kernel chooses its blocks by the generation while it is traced. That is the generation of the ambient mesh
(``jax.set_mesh``) where there is one, so that a program can be compiled for a pod that is not here, and of the default
device otherwise. JAX's own table (``pltpu.TpuInfo``) has the figures.
"""

import functools
from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

CHIPS = {
    "v5e": (pltpu.ChipVersion.TPU_V5E, 1),
    "v5p": (pltpu.ChipVersion.TPU_V5P, 2),
    "v6e": (pltpu.ChipVersion.TPU_V6E, 1),
    "tpu7x": (pltpu.ChipVersion.TPU_7X, 1),
}
"""Chip and TensorCores of one JAX device, of the TPUs that the kernels are compiled for in the tests."""
GENERATIONS = tuple(CHIPS)
DEFAULT = "v5e"
"""Blocks are those of this generation where a kernel is interpreted on something that is no TPU."""
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


@functools.cache
def info(generation: str) -> pltpu.TpuInfo:
    """Figures of one TensorCore: ``vmem_capacity_bytes``, ``bf16_ops_per_second``, ``mem_bw_bytes_per_second``, ..."""
    if generation not in CHIPS:
        raise ValueError(f"no TPU generation {generation!r}; choose from {list(CHIPS)}")
    return pltpu.get_tpu_info_for_chip(*CHIPS[generation])


def is_tpu() -> bool:
    """Is the program that is being traced one for a TPU?"""
    return pltpu.is_tpu_device()


def is_cpu() -> bool:
    """Is it one for a CPU?"""
    return not is_tpu() and jax.default_backend() == "cpu"


def is_one_tpu() -> bool:
    """Is it one for a single TPU, or for one device's part (``jax.shard_map``)? Nothing partitions a kernel by itself.

    There ``implementation="auto"`` takes the kernel.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return is_tpu() and jax.device_count() == 1
    return is_tpu() and (mesh.size == 1 or set(mesh.manual_axes) == set(mesh.axis_names))


def generation() -> str:
    """Name of the generation that is being traced for; an unlisted TPU counts as the listed one with the least VMEM."""
    if not is_tpu():
        return DEFAULT
    chip = pltpu.get_tpu_info().chip_version
    return next((name for name in CHIPS if CHIPS[name][0] == chip), "tpu7x")


def require_tpu(operation: str) -> None:
    """Raise ValueError, at trace time, if a kernel that only a TPU can run was asked for elsewhere."""
    if not is_tpu():
        raise ValueError(
            f"{operation}: implementation 'pallas_tpu' needs a TPU, and this program is for {jax.default_backend()!r} "
            "(to compile for a TPU that is not here, trace under jax.set_mesh); interpret=True runs the kernel anywhere"
        )


def is_nvidia_gpu() -> bool:
    """Is it one for an NVIDIA GPU?"""
    return not is_tpu() and jax.default_backend() == "gpu" and "cuda" in jax.devices()[0].client.platform_version


def require_nvidia_gpu(operation: str, name: str) -> None:
    """Raise ValueError, at trace time, if an implementation that only an NVIDIA GPU can run was asked for elsewhere."""
    if not is_nvidia_gpu():
        platform = "tpu" if is_tpu() else jax.default_backend()
        raise ValueError(f"{operation}: implementation {name!r} needs an NVIDIA GPU; this program is for {platform!r}")


def gpu_capability() -> tuple[int, int]:
    """CUDA's compute capability of the default device, (9, 0) for Hopper."""
    major, minor = jax.devices()[0].compute_capability.split(".")
    return int(major), int(minor)


def total(*costs: pl.CostEstimate) -> pl.CostEstimate:
    """The sum of each figure."""
    return pl.CostEstimate(
        **{field.name: sum(getattr(cost, field.name) for cost in costs) for field in fields(costs[0])}
    )


def roofline_seconds(cost: pl.CostEstimate, generation: str) -> float:
    """Modelled time on one device: the longer of its FLOPs at the bf16 peak and its HBM bytes at full bandwidth."""
    chip, cores = info(generation), CHIPS[generation][1]
    return max(cost.flops / chip.bf16_ops_per_second, cost.bytes_accessed / chip.mem_bw_bytes_per_second) / cores


def flops_per_byte(generation: str) -> float:
    """The arithmetic intensity at which matmuls in bf16 take as long as reading HBM."""
    chip = info(generation)
    return chip.bf16_ops_per_second / chip.mem_bw_bytes_per_second


def dot(x: jax.Array, y: jax.Array, *, contracted=NN) -> jax.Array:
    """The product of two matrices, sums in float32; float32 inputs are not rounded to bfloat16 on the way."""
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jax.lax.dot_general(x, y, (contracted, ((), ())), precision=precision, preferred_element_type=jnp.float32)


def compiler_params(generation: str, *dimension_semantics: Any, vmem: float) -> pltpu.CompilerParams:
    """Which grid dims may run in any order ("parallel") or not ("arbitrary"); ``vmem`` is the part of VMEM allowed."""
    limit = int(info(generation).vmem_capacity_bytes * vmem)
    return pltpu.CompilerParams(dimension_semantics=dimension_semantics, vmem_limit_bytes=limit)
