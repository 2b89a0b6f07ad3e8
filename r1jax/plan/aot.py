"""Compile a stage's programs for TPUs that are not here, and read what the compiler says of them.

libtpu compiles without a chip. It must be of the release that jax was made for: another release compiles most programs
and fails on some, so it is refused at once.
"""

import fnmatch
import importlib.metadata
import importlib.util
import os
import re
import time
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from r1jax.plan.collectives import collective_bytes
from r1jax.plan.hardware import GIB, Topology
from r1jax.plan.program import Program

_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",  # these three only silence warnings: the topology decides
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


class LibtpuError(RuntimeError):
    """libtpu is missing, is not of jax's release, or does not know the topology; the message says what to change."""


class DoesNotFitError(RuntimeError):
    """The compiler found no way to run a program in the memory of a device."""


def topology_devices(topology: Topology) -> list:
    """The compiler's devices of a topology that need not be here, to make a mesh of. Raises LibtpuError."""
    check_libtpu()
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    options = {"num_slices": topology.num_slices} if topology.num_slices > 1 else {}
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology.slice_name, **options).devices)
    except Exception as error:  # jaxlib raises what its C++ does
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LibtpuError(f"libtpu does not make a topology {topology.name!r}: {reason}") from error


def check_libtpu() -> None:
    """Raises LibtpuError where libtpu is not installed, or not of the release that this jax names."""
    path, install = os.environ.get("TPU_LIBRARY_PATH"), f"pip install 'libtpu{wanted_libtpu()}'"
    if not (Path(path).is_file() if path else importlib.util.find_spec("libtpu")):
        where = f"TPU_LIBRARY_PATH={path} is no file" if path else "it is not installed"
        raise LibtpuError(
            f"compiling for a TPU needs libtpu, and {where}: {install} (or name its libtpu.so in TPU_LIBRARY_PATH); "
            "--analytic needs none"
        )
    if path:
        folders = list(Path(path).resolve().parents[1].glob("libtpu-*.dist-info"))
        versions = [folder.name.removesuffix(".dist-info").split("-")[1] for folder in folders]
    else:
        versions = [importlib.metadata.version("libtpu")]
    if len(versions) == 1 and not matches(versions[0], wanted_libtpu()):
        raise LibtpuError(
            f"libtpu {versions[0]} does not match jax {jax.__version__}, which is made for libtpu{wanted_libtpu()}: "
            f"{install}; --analytic needs none"
        )


def wanted_libtpu() -> str:
    """What jax requires: "==0.0.42.*"; "" where its metadata do not say."""
    lines = importlib.metadata.requires("jax") or ()
    return next((match[1] for line in lines if (match := re.match(r"libtpu\s*([^;\s]+)\s*;", line))), "")


def matches(version: str, wanted: str) -> bool:
    """Is a version within "==0.0.42.*"? Another form of requirement is not judged."""
    return not wanted.startswith("==") or fnmatch.fnmatch(version, wanted.removeprefix("=="))


def compile_program(program: Program, topology: Topology) -> dict[str, Any]:
    """The fields of a ``ProgramPlan`` that the compiler knows: memory and collectives. FLOPs and HBM bytes no compiler
    gives.

    Raises DoesNotFitError with the compiler's words where the program does not fit.
    """
    start = time.monotonic()
    with jax.set_mesh(program.mesh):
        lowered = program.function.lower(*program.arguments, **program.static)
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            limit = f"the memory of {topology.hbm_bytes / GIB:.2f} GiB"
            raise DoesNotFitError(f"{program.name} does not fit into {limit}: {_memory_line(error)}") from error
    memory = compiled.memory_analysis()
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "peak_bytes": getattr(memory, "peak_memory_in_bytes", None),
        "collectives": collective_bytes(compiled.as_text(), dynamic_trips=program.dynamic_trips),
        "compile_seconds": time.monotonic() - start,
    }


def _memory_line(error: Exception) -> str:
    """What an out-of-memory error says of sizes."""
    text = " ".join(str(error).split())
    used = r"Used [\d.]+\w of [\d.]+\w hbm\. Exceeded hbm capacity by [\d.]+\w"
    required = r"total memory required.*?exceeds available HBM \([\d.]+\w\)"
    match = re.search(f"{used}|{required}", text)
    return match[0] if match else text[:300]
