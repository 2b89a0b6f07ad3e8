"""Forward and backward of a dense model, in tokens/s and as a share of the matmul peak, with a peer; and of an MoE
layer.

FLOPs are 6 a matmul parameter and token (attention scores and recomputed logits are left out, as in the usual 6N),
since XLA's cost analysis counts a scanned layer once. Peer and model take turns in one run, each in its own process
time: another job on the machine disturbs both.
"""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.bench.measure import active_matmul_params, matmul_peak, seconds_of
from r1jax.kernels.grouped_matmul import expert_ffn
from r1jax.models.config import ModelConfig
from r1jax.models.presets import make_preset
from r1jax.models.transformer import make_model


def run(
    preset: str, *, batch: int, length: int, dtypes: list[str], repeats: int, peer: Path | None = None
) -> dict[str, Any]:
    """A table by dtype; ``peer`` is a script with the options of experiments/peers/transformers_model.py."""
    table = {}
    for dtype in dtypes:
        config = dataclasses.replace(make_preset(preset), dtype=dtype, remat="dots")
        row = time_gradient(config, batch=batch, length=length, repeats=repeats)
        if peer is not None:
            theirs = _run_peer(peer, config, batch=batch, length=length, repeats=repeats)
            row["peer_tokens_per_second"] = batch * length / median(theirs["seconds"])
            row["peer_matmul_peak_gflops"] = theirs["peak_gflops"]
            row["ratio_to_peer"] = row["tokens_per_second"] / row["peer_tokens_per_second"]
        table[dtype] = row
        print(f"{dtype}: {json.dumps(row)}", flush=True)
    return {"preset": preset, "batch": batch, "length": length, "gradient": table, "moe_layer": time_moe()}


def time_gradient(config: ModelConfig, *, batch: int, length: int, repeats: int) -> dict[str, float]:
    """Loss and gradient of the mean next-token loss of random weights on random tokens."""
    model = make_model(config)
    params, buffers = jax.jit(model.init)(jax.random.key(0))
    tokens_BT = jax.random.randint(jax.random.key(1), (batch, length), 0, config.vocab_size)
    layout: dict[str, Any] = {
        "positions_BT": jnp.broadcast_to(jnp.arange(length), (batch, length)),
        "segments_BT": jnp.ones((batch, length), jnp.int32),
    }

    @jax.jit
    def gradient(params):
        def loss(params):
            hidden_BTD, *_ = model.hidden(params, buffers, tokens_BT, **layout)
            return -model.token_logprob(params, hidden_BTD, jnp.roll(tokens_BT, -1, axis=1))[0].mean()

        return jax.value_and_grad(loss)(params)

    before = matmul_peak(config.dtype)
    seconds = seconds_of(lambda: gradient(params), repeats=repeats)
    peak = max(before, matmul_peak(config.dtype))
    flops = 6 * active_matmul_params(config) * batch * length
    return {
        "tokens_per_second": batch * length / median(seconds),
        "seconds_best": min(seconds),
        "seconds_worst": max(seconds),
        "matmul_peak_gflops": peak / 1e9,
        "share_of_peak": flops / median(seconds) / peak,
    }


def time_moe(
    *, num_tokens: int = 4096, dim: int = 512, ffn_dim: int = 256, experts: int = 64, chosen: int = 8
) -> dict[str, float]:
    """Value and gradient of E routed experts against a dense SwiGLU of the same FLOPs, float32."""
    keys = iter(jax.random.split(jax.random.key(0), 5))
    x_TD = jax.random.normal(next(keys), (num_tokens, dim))
    experts_TK = jax.random.randint(next(keys), (num_tokens, chosen), 0, experts)
    weights_TK = jnp.full((num_tokens, chosen), 1 / chosen)
    w_gate, w_up = (jax.random.normal(next(keys), (experts, dim, ffn_dim)) for _ in range(2))
    w_down = jax.random.normal(next(keys), (experts, ffn_dim, dim))

    def routed(x_TD, *weights):
        return jnp.sum(expert_ffn(x_TD, experts_TK, weights_TK, *weights) ** 2)

    def dense(x_TD, w_gate, w_up, w_down):
        return jnp.sum(((jax.nn.silu(x_TD @ w_gate) * (x_TD @ w_up)) @ w_down) ** 2)

    def best(function, *weights):
        gradient = jax.jit(jax.grad(function, (0, 1, 2, 3)))
        return min(seconds_of(lambda: gradient(x_TD, *weights), repeats=10))

    as_one = [w[:chosen].swapaxes(0, 1).reshape(dim, -1) for w in (w_gate, w_up)]
    ours, same = best(routed, w_gate, w_up, w_down), best(dense, *as_one, w_down[:chosen].reshape(-1, dim))
    return {"seconds": ours, "dense_seconds": same, "ratio_to_dense": ours / same}


def _run_peer(script: Path, config: ModelConfig, *, batch: int, length: int, repeats: int) -> dict[str, Any]:
    command = [sys.executable, str(script), "--shape", json.dumps(dataclasses.asdict(config))]
    command += [f"--batch={batch}", f"--length={length}", f"--dtype={config.dtype}", f"--repeats={repeats}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{script} failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])
