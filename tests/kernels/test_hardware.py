import jax
import pytest
from jax.experimental import pallas as pl

from r1jax.kernels import hardware


def test_figures_of_the_generations():
    vmem = {name: hardware.info(name).vmem_capacity_bytes // 2**20 for name in hardware.GENERATIONS}
    assert vmem == {"v5e": 128, "v5p": 64, "v6e": 128, "tpu7x": 64}
    with pytest.raises(ValueError, match=r"no TPU generation 'v4'.*v5e"):
        hardware.info("v4")


def test_roofline_is_the_longer_of_compute_and_memory():
    # v5e: 197 TFLOP/s and 820 GB/s; a v5p device is two cores of 229.5 TFLOP/s and 1230 GB/s.
    compute = pl.CostEstimate(flops=197 * 10**12, bytes_accessed=10, transcendentals=0)
    memory = pl.CostEstimate(flops=10, bytes_accessed=2460 * 10**9, transcendentals=0)
    assert hardware.roofline_seconds(compute, "v5e") == pytest.approx(1)
    assert hardware.roofline_seconds(memory, "v5p") == pytest.approx(1)


def test_the_ambient_mesh_decides_the_generation():
    assert not hardware.is_tpu() and hardware.generation() == hardware.DEFAULT
    with pytest.raises(ValueError, match=r"some_op.*needs a TPU.*'cpu'"):
        hardware.require_tpu("some_op")
    device = jax.sharding.AbstractDevice("TPU v5", 2, "tpu")
    mesh = jax.sharding.AbstractMesh((1,), ("device",), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        assert hardware.is_tpu() and hardware.generation() == "v5p"
        hardware.require_tpu("some_op")
