"""The shapes that the kernels are tested, compiled and modelled at: what people run, on one device."""

from typing import Any

from r1jax.kernels.flash_attention.shapes import AttentionShape
from r1jax.kernels.grouped_matmul.shapes import ExpertShape
from r1jax.kernels.paged_decode.shapes import DecodeShape
from r1jax.kernels.route.pallas_tpu import RouterShape
from r1jax.kernels.route.reference import Routing
from r1jax.kernels.token_logprob.shapes import LogprobShape


def _attention(batch: int, queries: int, keys: int, heads: tuple[int, int, int], **more) -> AttentionShape:
    sizes = {"heads": heads[0], "kv_heads": heads[1], "head_dim": heads[2], "value_dim": heads[2]}
    return AttentionShape(batch=batch, queries=queries, keys=keys, **sizes, **more)


def _decode(batch: int, tokens: int, heads: int, *, queries: int = 1, **widths) -> DecodeShape:
    pages = {"page_size": 128, "pages_per_sequence": tokens // 128, "num_pages": batch * tokens // 128}
    return DecodeShape(batch=batch, queries=queries, heads=heads, **pages, **widths)


_V3_LATENT = {"latent_dim": 512, "rope_dim": 64}
_V3_ROUTING = Routing(
    num_experts_per_token=8, num_groups=8, num_groups_per_token=4, scaling=2.5, score_function="sigmoid"
)
_V2_ROUTING = Routing(
    num_experts_per_token=6, num_groups=8, num_groups_per_token=3, scaling=16.0, best_per_group=1, normalize=False,
    score_function="softmax",
)  # fmt: skip
_MINI_ROUTING = Routing(
    num_experts_per_token=2, num_groups=4, num_groups_per_token=2, scaling=1.0, score_function="sigmoid"
)

SHAPES: dict[str, dict[str, Any]] = {
    "flash_attention": {
        "v3_train_4k": _attention(1, 4096, 4096, (128, 128, 128), rope_dim=64),
        "v3_rl_32k": _attention(1, 32_768, 32_768, (16, 16, 128), rope_dim=64),  # 128 heads over tensor = 8
        "v3_prefill_chunk": _attention(1, 2048, 16_384, (128, 128, 128), rope_dim=64),
        "qwen2.5_7b_4k": _attention(2, 4096, 4096, (28, 4, 128)),
        "llama3.3_70b_8k": _attention(1, 8192, 8192, (64, 8, 128)),
        "smollm2_2k": _attention(4, 2048, 2048, (9, 3, 64)),
        "mini_v3": _attention(8, 160, 160, (4, 4, 32), rope_dim=16, dtype="float32"),
        "mini_qwen": _attention(8, 160, 160, (4, 2, 32), dtype="float32"),
    },
    "mla_decode": {
        "v3_4k": _decode(32, 4096, 128, **_V3_LATENT),
        "v3_4k_speculative": _decode(32, 4096, 128, queries=2, **_V3_LATENT),
        "v3_32k": _decode(8, 32_768, 128, **_V3_LATENT),
        "mini_v3": _decode(16, 512, 4, latent_dim=48, rope_dim=16, dtype="float32"),
    },
    "gqa_decode": {
        "qwen2.5_7b_4k": _decode(32, 4096, 28, kv_heads=4, head_dim=128),
        "qwen2.5_7b_speculative": _decode(16, 4096, 28, kv_heads=4, head_dim=128, queries=4),
        "llama3.3_70b_8k": _decode(8, 8192, 64, kv_heads=8, head_dim=128),
        "smollm2_2k": _decode(32, 2048, 9, kv_heads=3, head_dim=64),
        "mini_qwen": _decode(16, 512, 4, kv_heads=2, head_dim=32, dtype="float32"),
    },
    "route": {
        "v3": RouterShape(4096, 256, _V3_ROUTING),
        "v3_decode": RouterShape(128, 256, _V3_ROUTING),
        "v2": RouterShape(4096, 160, _V2_ROUTING),
        "mini_v3": RouterShape(1280, 16, _MINI_ROUTING),
    },
    "expert_ffn": {
        # One of 32 expert-parallel devices: 8 of 256 experts, the rows of 4096 tokens a device, and of 128 while decoding.
        "v3": ExpertShape(rows=4096 * 8, experts=8, dim=7168, ffn=2048),
        "v3_decode": ExpertShape(rows=128 * 8, experts=8, dim=7168, ffn=2048),
        "mini_v3": ExpertShape(rows=1280 * 2, experts=16, dim=128, ffn=128, itemsize=4),
    },
    "token_logprob": {
        "v3": LogprobShape(rows=8192, vocab=129_280, dim=7168),
        "qwen2.5_1.5b": LogprobShape(rows=8192, vocab=151_936, dim=1536),
        "mini_v3": LogprobShape(rows=1280, vocab=512, dim=128, itemsize=4),
    },
}
"""Operation -> name -> its shape; heads are those of a device.

A shape has ``passes``, generation -> {pass: FLOPs, exponentials and HBM bytes}, and ``unfused_bytes``, generation ->
{pass: HBM bytes if each step of the same operation reads its arrays and writes its result}.
"""
