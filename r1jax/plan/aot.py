"""Compile a stage's programs for TPUs that are not here, and read what the compiler says of them.

libtpu compiles without a chip. It must be of the release that jax was made for: another release compiles most programs and fails
on some, so it is refused at once.
"""

import dataclasses
import importlib.metadata
import importlib.util
import os
import re
import time
from pathlib import Path

import jax
from jax.experimental import topologies

from r1jax.plan.collectives import collective_bytes
from r1jax.plan.hardware import GIB, Topology
from r1jax.plan.program import Program, ProgramPlan

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
        raise LibtpuError(f"libtpu does not make a topology {topology.name!r}: {_first_line(error)}") from error


def check_libtpu() -> None:
    """Raises LibtpuError where libtpu is not installed, or not of the release that this jax names."""
    path, wanted = os.environ.get("TPU_LIBRARY_PATH"), _wanted_libtpu()
    if (path is None and importlib.util.find_spec("libtpu") is None) or (path is not None and not Path(path).is_file()):
        where = f"TPU_LIBRARY_PATH={path} is no file" if path else "it is not installed"
        raise LibtpuError(
            f"compiling for a TPU needs libtpu, and {where}: pip install 'libtpu{wanted}' (or name its libtpu.so in "
            "TPU_LIBRARY_PATH); --analytic needs none"
        )
    version = _libtpu_version(path)
    if version is not None and wanted and not _matches(version, wanted):
        raise LibtpuError(
            f"libtpu {version} does not match jax {jax.__version__}, which is made for libtpu{wanted}: pip install "
            f"'libtpu{wanted}'; --analytic needs none"
        )


def compile_program(program: Program, counted: ProgramPlan, topology: Topology) -> ProgramPlan:
    """The counted plan with the compiler's figures of memory and collectives; FLOPs and HBM bytes no compiler gives.

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
    return dataclasses.replace(
        counted,
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        alias_bytes=memory.alias_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
        peak_bytes=getattr(memory, "peak_memory_in_bytes", None),
        collectives=collective_bytes(compiled.as_text(), dynamic_trips=program.dynamic_trips),
        compile_seconds=time.monotonic() - start,
    )


def _wanted_libtpu() -> str:
    """What jax requires: "==0.0.42.*"; "" where its metadata do not say."""
    for line in importlib.metadata.requires("jax") or ():
        if match := re.match(r"libtpu\s*([^;\s]+)\s*;", line):
            return match[1]
    return ""


def _libtpu_version(path: str | None) -> str | None:
    """The version of the libtpu that will be loaded; None where no metadata next to it say so."""
    if path is None:
        return importlib.metadata.version("libtpu")
    metadata = sorted(Path(path).resolve().parents[1].glob("libtpu-*.dist-info"))
    return metadata[-1].name.split("-")[1].removesuffix(".dist") if len(metadata) == 1 else None


def _matches(version: str, wanted: str) -> bool:
    """Is a version within "==0.0.42.*"? Another form of requirement is not judged."""
    match = re.fullmatch(r"==([\d.]+?)(\.\*)?", wanted)
    if not match:
        return True
    return version == match[1] or (match[2] is not None and version.startswith(f"{match[1]}."))


def _memory_line(error: Exception) -> str:
    """What an out-of-memory error says of sizes."""
    text = " ".join(str(error).split())
    used = r"Used [\d.]+\w of [\d.]+\w hbm\. Exceeded hbm capacity by [\d.]+\w"
    required = r"total memory required.*?exceeds available HBM \([\d.]+\w\)"
    match = re.search(f"{used}|{required}", text)
    return match[0] if match else text[:300]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
