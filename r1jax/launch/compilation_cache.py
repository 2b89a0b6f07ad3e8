"""The compiled programs of earlier runs, kept on disk so that the next start is fast."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import jax


def use_compilation_cache(*, min_compile_seconds: float = 0.5) -> Path:
    """Make JAX keep every program that takes longer than `min_compile_seconds` to compile; returns the folder.

    The folder is JAX_COMPILATION_CACHE_DIR if that is set, else ${XDG_CACHE_HOME:-~/.cache}/r1jax/xla/<processor>.
    The processor is part of the name because a home directory may be shared: a CPU program compiled for one
    machine can hold instructions that another does not have.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    folder = Path(chosen) if chosen else home / "r1jax" / "xla" / processor_fingerprint()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", min_compile_seconds)
    return folder


def processor_fingerprint() -> str:
    """Twelve hex digits that differ where the CPU's model or instruction set differs."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    except OSError:
        facts = [platform.machine(), platform.processor()]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
