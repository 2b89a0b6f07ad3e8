"""What every measurement needs: the time of a call, the machine's matmul peak, the FLOPs of a token."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.models.config import ModelConfig
from r1jax.models.transformer import make_model


def seconds_of(call: Callable[[], Any], *, repeats: int) -> list[float]:
    """Wall time of each of ``repeats`` calls whose results are awaited, after one that compiles."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begin)
    return seconds


def matmul_peak(dtype=jnp.float32, *, size: int = 2048) -> float:
    """FLOP/s of a square matmul with float32 sums in this process, the best of five."""
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, preferred_element_type=jnp.float32))
    return 2 * size**3 / min(seconds_of(lambda: product(a), repeats=5))


def active_matmul_params(config: ModelConfig) -> int:
    """Parameters of the matmuls that one token passes through: all but the embedding, norms and unchosen experts."""
    params = make_model(config).abstract()[0]
    total = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.startswith(("embed", "unembed", "mtp")) or name.endswith("scale"):
            continue
        is_expert = "moe/ffn/w_" in name and "router" not in name
        total += leaf.size * config.num_experts_per_token // config.num_experts if is_expert else leaf.size
    return total + config.vocab_size * config.model_dim
