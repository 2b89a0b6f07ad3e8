"""The one configuration of every model, its presets, and the legend of dims.

Arrays carry their dims as a suffix (``q_BTNH``), capitals for logical, global dims:

B sequences · T tokens now · S key/cached tokens · D model · V vocabulary · N heads · J key/value heads · H head dim
(nope) · R rope dim · U value dim · C kv latent · Q query latent · F ffn · E experts · K experts a token · X routed rows ·
G group · P prompts · M MTP depth · L layers.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Yarn:
    """YaRN context extension (V3 Sec. 4.3; golden numbers in V3's released code)."""

    factor: float
    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of a decoder: GQA or MLA attention, dense or mixture-of-experts feed-forward.

    Raises ValueError, naming the field, for shapes that no such model has.
    """

    vocab_size: int
    num_layers: int
    model_dim: int
    ffn_dim: int
    num_heads: int
    attention: Literal["gqa", "mla"] = "gqa"
    # GQA (Llama, Qwen2)
    num_kv_heads: int = 0
    head_dim: int = 0
    qkv_bias: bool = False
    # MLA (V3 Sec. 2.1.1); q_lora_rank 0 means one dense query projection, as in V2-Lite
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    nope_head_dim: int = 0
    rope_head_dim: int = 0
    value_head_dim: int = 0
    # mixture of experts (V3 Sec. 2.1.2); num_experts 0 means every layer is dense
    num_experts: int = 0
    num_experts_per_token: int = 0
    num_shared_experts: int = 0
    expert_ffn_dim: int = 0
    num_dense_layers: int = 0
    num_groups: int = 1
    num_groups_per_token: int = 1
    routed_scaling: float = 1.0
    # common
    tie_embeddings: bool = False
    rope_theta: float = 10_000.0
    yarn: Yarn | None = None
    rms_eps: float = 1e-6
    init_std: float = 0.006
    dtype: str = "float32"
    """Type of activations and of matmul inputs; parameters are kept in float32 by the trainer."""
    remat: bool = False
    """Recompute each layer in the backward pass."""

    def __post_init__(self):
        def require(condition: bool, message: str):
            if not condition:
                raise ValueError(f"ModelConfig: {message}")

        for field in ("vocab_size", "num_layers", "model_dim", "ffn_dim", "num_heads"):
            require(getattr(self, field) > 0, f"{field} must be positive, got {getattr(self, field)}")
        if self.attention == "gqa":
            require(self.num_kv_heads > 0, f"num_kv_heads must be positive, got {self.num_kv_heads}")
            require(
                self.num_heads % self.num_kv_heads == 0,
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}",
            )
            require(
                self.head_dim > 0 and self.head_dim % 2 == 0,
                f"head_dim must be even and positive, got {self.head_dim}",
            )
        elif self.attention == "mla":
            for field in ("kv_lora_rank", "nope_head_dim", "rope_head_dim", "value_head_dim"):
                require(getattr(self, field) > 0, f"{field} must be positive, got {getattr(self, field)}")
            require(self.rope_head_dim % 2 == 0, f"rope_head_dim must be even, got {self.rope_head_dim}")
        else:
            require(False, f"attention must be 'gqa' or 'mla', got {self.attention!r}")
        if self.num_experts:
            require(
                0 < self.num_experts_per_token <= self.num_experts,
                f"num_experts_per_token {self.num_experts_per_token} must be in 1..{self.num_experts}",
            )
            require(
                self.num_experts % self.num_groups == 0,
                f"num_experts {self.num_experts} is not a multiple of num_groups {self.num_groups}",
            )
            require(
                0 < self.num_groups_per_token <= self.num_groups,
                f"num_groups_per_token {self.num_groups_per_token} must be in 1..{self.num_groups}",
            )
            allowed = self.num_groups_per_token * self.num_experts // self.num_groups
            require(
                self.num_experts_per_token <= allowed,
                f"num_experts_per_token {self.num_experts_per_token} exceeds the {allowed} experts that "
                f"{self.num_groups_per_token} groups hold",
            )
            require(self.expert_ffn_dim > 0, f"expert_ffn_dim must be positive, got {self.expert_ffn_dim}")
            require(
                0 <= self.num_dense_layers < self.num_layers,
                f"num_dense_layers {self.num_dense_layers} must be in 0..{self.num_layers - 1}",
            )
        jnp.dtype(self.dtype)

    @property
    def num_moe_layers(self) -> int:
        return self.num_layers - self.num_dense_layers if self.num_experts else 0

    @property
    def rotated_dim(self) -> int:
        """Width of the part of a head that RoPE turns."""
        return self.head_dim if self.attention == "gqa" else self.rope_head_dim


def deepseek_v3() -> ModelConfig:
    """DeepSeek-V3, R1-Zero and R1: 671B parameters, 37B active (V3 Sec. 4.2)."""
    return ModelConfig(
        vocab_size=129_280, num_layers=61, model_dim=7168, ffn_dim=18_432, num_heads=128, attention="mla",
        q_lora_rank=1536, kv_lora_rank=512, nope_head_dim=128, rope_head_dim=64, value_head_dim=128,
        num_experts=256, num_experts_per_token=8, num_shared_experts=1, expert_ffn_dim=2048, num_dense_layers=3,
        num_groups=8, num_groups_per_token=4, routed_scaling=2.5, yarn=Yarn(factor=40.0, original_length=4096),
        dtype="bfloat16", remat=True,
    )  # fmt: skip


def mini_v3(vocab_size: int) -> ModelConfig:
    """A DeepSeek-V3 of a few million parameters, with every part of the big one, for two cores."""
    return ModelConfig(
        vocab_size=vocab_size, num_layers=4, model_dim=128, ffn_dim=384, num_heads=4, attention="mla",
        q_lora_rank=64, kv_lora_rank=48, nope_head_dim=32, rope_head_dim=16, value_head_dim=32,
        num_experts=16, num_experts_per_token=2, num_shared_experts=1, expert_ffn_dim=128, num_dense_layers=1,
        num_groups=4, num_groups_per_token=2, routed_scaling=1.0, init_std=0.02,
    )  # fmt: skip
