"""Compile a function for TPUs that are not here, and read from the result which kernels it calls.

libtpu is looked for in TPU_LIBRARY_PATH, then in <environment>/libtpu (``pip install --target``), then among the installed
packages; where it is in none of them, ``tpu_compile`` skips the test.

R1JAX_TPU_TABLE names a file that gets a line of JSON for each program checked, for ``python -m tests.kernels.tpu_table``;
set JAX_ENABLE_COMPILATION_CACHE=0 with it, so that the CPU seconds are those of a compiler that knows nothing yet.
"""

import dataclasses
import functools
import importlib.util
import json
import math
import os
import re
import sys
import time
import weakref
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r1jax.kernels import hardware
from r1jax.sharding import MESH_AXES

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}
BESIDE = Path(sys.prefix) / "libtpu" / "libtpu" / "libtpu.so"

if "TPU_LIBRARY_PATH" not in os.environ and BESIDE.exists():
    os.environ["TPU_LIBRARY_PATH"] = str(BESIDE)
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")  # pytest -n
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")  # only silences a warning: the topology decides
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_WORKER_ID", "0")
TABLE = os.environ.get("R1JAX_TPU_TABLE")
SECONDS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
"""Compiled program -> CPU seconds that it took to trace and compile."""
HAS_LIBTPU = "TPU_LIBRARY_PATH" in os.environ or importlib.util.find_spec("libtpu") is not None


def tpu_compile(test=None, *, generations=hardware.GENERATIONS):
    """Mark a test that takes ``generation`` and compiles for it."""
    if test is None:
        return functools.partial(tpu_compile, generations=generations)
    skip = pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu is not installed")
    each = pytest.mark.parametrize("generation", generations)
    return pytest.mark.tpu_compile(skip(each(test)))


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel call as the compiler left it."""

    name: str
    vmem_bytes: int
    flops: int
    bytes_accessed: int
    transcendentals: int


@functools.cache
def mesh(generation: str) -> Mesh:
    """One device of that generation."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[generation]).devices
    return Mesh(np.array(devices[:1]), ("device",))


def mesh_of(generation: str, axes: dict[str, int]) -> Mesh:
    """As many devices of that generation as ``axes`` say, a mesh as ``make_mesh`` gives it."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[generation]).devices
    shape = [axes.get(name, 1) for name in MESH_AXES]
    auto = (jax.sharding.AxisType.Auto,) * len(shape)
    return Mesh(np.array(devices[: math.prod(shape)]).reshape(shape), MESH_AXES, axis_types=auto)


def compile_for(generation: str, function, *arguments, static: dict | None = None):
    """``function`` compiled for one device; ``arguments`` are trees of arrays or ShapeDtypeStructs, ``static`` keywords."""
    sharding = NamedSharding(mesh(generation), PartitionSpec())
    arguments = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), arguments)
    # A fresh function each time: what JAX remembers of a trace must not reach another generation.
    with jax.set_mesh(mesh(generation)):
        return compile_timed(jax.jit(functools.partial(function, **(static or {}))), *arguments)


def compile_timed(jitted, *arguments):
    """A jitted function compiled for arguments that say where they are; or one that is lowered already."""
    start = time.process_time()
    compiled = (jitted if isinstance(jitted, jax.stages.Lowered) else jitted.lower(*arguments)).compile()
    SECONDS[compiled] = time.process_time() - start
    return compiled


def kernels(compiled) -> list[Kernel]:
    """The Pallas kernels that a compiled program calls, in order of the text."""
    found = []
    for line in compiled.as_text().splitlines():
        if 'custom_call_target="tpu_custom_call"' not in line:
            continue
        estimate = re.search(r'"cost_estimate":\{([^}]*)\}', line)
        costs = dict(re.findall(r'"(\w+)":"(\d+)"', estimate[1] if estimate else ""))
        used = re.search(r'"used_scoped_memory_configs":\[([^\]]*)\]', line)
        vmem = re.findall(r'"memory_space":"1","offset":"\d+","size":"(\d+)"', used[1] if used else "")
        name = re.search(r'op_name="([^"]*)"', line)
        found.append(
            Kernel(
                name=name[1] if name else "",
                vmem_bytes=sum(map(int, vmem)) if vmem else -1,
                **{key: int(costs.get(key, 0)) for key in ("flops", "bytes_accessed", "transcendentals")},
            )
        )
    return found


def check_kernels(generation: str, compiled, names: list[str]) -> list[Kernel]:
    """The kernels of a program, after a check that they are those named, in any order, and fit that generation's VMEM."""
    found = kernels(compiled)
    for name in names:
        assert any(name in kernel.name for kernel in found), (name, [kernel.name for kernel in found])
    for kernel in found:
        # 0 where XLA keeps all operands and results in VMEM by itself; -1 where the text does not say.
        assert 0 <= kernel.vmem_bytes <= hardware.info(generation).vmem_capacity_bytes, kernel
    if TABLE:
        row = {"test": os.environ["PYTEST_CURRENT_TEST"], "generation": generation, "cpu_seconds": SECONDS[compiled]}
        with open(TABLE, "a") as file:
            file.write(json.dumps(row | {"kernels": [dataclasses.asdict(kernel) for kernel in found]}) + "\n")
    return found
