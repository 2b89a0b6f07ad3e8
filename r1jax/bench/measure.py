"""What every measurement needs: the time of a call, the machine's matmul peak, the FLOPs of a token."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.models.config import ModelConfig
from r1jax.models.transformer import parameter_counts


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
    """Parameters that one token passes through in matmuls; norms and biases, a few in a thousand, are counted too."""
    embedding = 0 if config.tie_embeddings else config.vocab_size * config.model_dim
    return parameter_counts(config).activated - embedding
