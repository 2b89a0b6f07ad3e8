"""What holds for every test: the CPU, eight simulated devices, the compilation cache.

The variables are set here because XLA reads them once, when jax is first imported.
"""

import os
from pathlib import Path

EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if EIGHT_DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {EIGHT_DEVICES}".strip()

import jax  # noqa: E402
import pytest  # noqa: E402

from r1jax.launch.compilation_cache import use_compilation_cache  # noqa: E402
from r1jax.launch.host_memory import keep_freed_memory  # noqa: E402

keep_freed_memory()
use_compilation_cache()


MAPPINGS = Path("/proc/self/maps")
"""Of this process's memory, on Linux, which grants 65,530 (vm.max_map_count). A program that XLA has compiled for the CPU
takes hundreds of them for as long as JAX keeps it; without more XLA crashes."""


@pytest.fixture(autouse=True)
def compiled_programs_are_few():
    yield
    if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()


@pytest.fixture(scope="module")
def quick_compilation():
    """For programs that run once or twice and would take far longer to compile."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
