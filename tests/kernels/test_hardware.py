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


def test_one_tpu_or_a_part_of_several_gets_the_kernel_by_default():
    device = jax.sharding.AbstractDevice("TPU v6 lite", 1, "tpu")
    told = []

    def tell(x):
        told.append(hardware.is_one_tpu())
        return x

    x = jax.ShapeDtypeStruct((4,), "float32")
    jax.eval_shape(tell, x)  # a CPU
    for size in (1, 4):
        auto = (jax.sharding.AxisType.Auto,)
        mesh = jax.sharding.AbstractMesh((size,), ("device",), axis_types=auto, abstract_device=device)
        with jax.sharding.use_abstract_mesh(mesh):
            jax.eval_shape(tell, x)
    spec = jax.sharding.PartitionSpec("device")
    with jax.sharding.use_abstract_mesh(mesh):
        jax.eval_shape(jax.shard_map(tell, in_specs=spec, out_specs=spec), x)
    assert told == [False, True, False, True]
