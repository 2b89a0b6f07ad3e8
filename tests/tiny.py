"""Tiny models, and the tiny policy of the stages' tests, that the tests share."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.models.config import ModelConfig, Yarn

GQA = ModelConfig(
    vocab_size=48, num_layers=2, model_dim=32, ffn_dim=48, num_heads=4, num_kv_heads=2, head_dim=8,
    qkv_bias=True, tie_embeddings=True, init_std=0.2,
)  # fmt: skip

V3 = ModelConfig(
    vocab_size=48, num_layers=3, model_dim=32, ffn_dim=48, num_heads=4, attention="mla",
    q_lora_rank=16, kv_lora_rank=12, nope_head_dim=8, rope_head_dim=8, value_head_dim=6,
    num_experts=8, num_experts_per_token=2, num_shared_experts=1, expert_ffn_dim=16, num_dense_layers=1,
    num_groups=4, num_groups_per_token=2, routed_scaling=2.5,
    yarn=Yarn(factor=4.0, original_length=8, beta_fast=2.0, beta_slow=0.2), init_std=0.2,
)  # fmt: skip


def shaken(model, seed=0):
    """(params, buffers) from numpy (nothing is compiled): no norm scale is 1, no bias and no router bias 0."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        if name == "scale":
            return jnp.asarray(1 + 0.1 * noise)
        return jnp.asarray(noise * (0.1 if name.startswith(("b_", "router_bias")) else model.config.init_std))

    return jax.tree_util.tree_map_with_path(draw, model.abstract())


def padded(rows, *, length=None, left=False):
    """(tokens, positions, segments) as [B, T] of token lists, each a row of its own, padded on the right or left."""
    length = length or max(map(len, rows))
    tokens, positions, segments = (np.zeros((len(rows), length), np.int32) for _ in range(3))
    for row, ids in enumerate(rows):
        place = slice(length - len(ids), None) if left else slice(0, len(ids))
        tokens[row, place], positions[row, place], segments[row, place] = ids, np.arange(len(ids)), 1
    return tokens, positions, segments


_CORPUS = {"function": "r1jax.tasks.mini.corpus:corpus_text", "arguments": {}}
_TINY = {
    "model_dim": 32, "ffn_dim": 48, "num_layers": 2, "num_heads": 2, "q_lora_rank": 16, "kv_lora_rank": 16,
    "nope_head_dim": 8, "rope_head_dim": 8, "value_head_dim": 8, "num_experts": 4, "expert_ffn_dim": 16,
    "num_groups": 2, "num_groups_per_token": 1, "init_std": 0.2,
}  # fmt: skip
POLICY = {
    "kind": "random",
    "preset": "mini_v3",
    "model": _TINY,
    "tokenizer": {"source": _CORPUS, "template": "plain", "num_texts": 100, "vocab_size": 300},
}
"""What a stage's config.init takes: an untrained model with a tokenizer of the mini corpus."""


def rows_of(workdir: Path) -> list[dict]:
    """Metrics rows without what depends on the clock."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not _is_of_the_clock(k)} for row in rows]


def _is_of_the_clock(name: str) -> bool:
    return name.startswith(("time", "tokens_per_second")) or name.endswith("/seconds")
