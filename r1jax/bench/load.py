"""Memory and time of ``load_pretrained``: a folder of several GB is made, and a fresh process loads it.

The model has every part of DeepSeek-V3, with random weights in bfloat16. What counts is how far the peak of resident
memory is above the arrays that are wanted: loading is to need room for them and one tensor.
"""

import concurrent.futures
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from r1jax.hf import Pretrained, load_pretrained, save_pretrained
from r1jax.models.config import ModelConfig, Yarn
from r1jax.models.transformer import make_model


def run(*, layers: int) -> dict[str, Any]:
    """Figures in GB (10⁹ bytes); the folder is a temporary one and is removed."""
    config = ModelConfig(
        vocab_size=32_768, num_layers=layers, model_dim=1024, ffn_dim=4096, num_heads=16, attention="mla",
        q_lora_rank=512, kv_lora_rank=256, nope_head_dim=64, rope_head_dim=32, value_head_dim=64,
        num_experts=32, num_experts_per_token=4, num_shared_experts=1, expert_ffn_dim=1024, num_dense_layers=1,
        num_groups=4, num_groups_per_token=2, routed_scaling=2.5, yarn=Yarn(factor=40.0, original_length=4096),
        max_length=163_840, init_std=0.02, dtype="bfloat16",
    )  # fmt: skip
    model = make_model(config)
    params, buffers = jax.jit(model.init)(jax.random.key(0))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model"
        save_pretrained(Pretrained(model, params, buffers), target, dtype="bfloat16")
        on_disk = sum(file.stat().st_size for file in target.iterdir()) / 1e9
        del params, buffers
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            figures = fresh.submit(_load, target).result()
    beyond = figures["peak_gb"] - figures["before_gb"] - figures["arrays_gb"]
    return {"folder_gb": on_disk, **figures, "beyond_arrays_gb": beyond}


def _load(folder: Path) -> dict[str, float]:
    jax.block_until_ready(jax.numpy.zeros(1))
    before, begin = _peak_gb(), time.perf_counter()
    model = load_pretrained(folder, dtype="bfloat16")
    jax.block_until_ready(model.params)
    seconds = time.perf_counter() - begin
    arrays = sum(leaf.nbytes for leaf in jax.tree.leaves((model.params, model.buffers))) / 1e9
    return {"seconds": seconds, "arrays_gb": arrays, "before_gb": before, "peak_gb": _peak_gb()}


def _peak_gb() -> float:
    """Of resident memory; getrusage's figure would include the parent's, from before exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM"))
