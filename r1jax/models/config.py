"""The one configuration of every model, and the legend of dims. Named models are in ``presets``.

Arrays carry their dims as a suffix (``q_BTNH``), capitals for logical, global dims:

B sequences · T tokens now · S key/cached tokens · D model · V vocabulary · N heads · J key/value heads · H head dim
(nope) · R rope dim · U value dim · C kv latent · Q query latent · F ffn · E experts · K experts a token · X routed rows
· G group · P prompts · M MTP depth · L layers · A several of these side by side (nope and rope; MTP's two inputs).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax.numpy as jnp
from jax.typing import DTypeLike

ScoreFunction = Literal["sigmoid", "softmax"]
ExpertParallel = Literal["auto", "ring", "all_to_all", "ragged_all_to_all"]
AttentionImplementation = Literal["auto", "reference", "xla", "cudnn", "pallas_tpu"]
ExpertImplementation = Literal["auto", "reference", "xla", "ragged_dot", "tokamax", "pallas_tpu"]


def dtype_name(dtype: DTypeLike) -> str:
    """ "float32" of jnp.float32, np.dtype(np.float32) or "float32"; what is no type is given back as text."""
    try:
        return jnp.dtype(dtype).name
    except TypeError:
        return str(dtype)


@dataclasses.dataclass(frozen=True)
class Yarn:
    """YaRN context extension (V3 Sec. 4.3; spec A.4.2, A.4.3).

    MLA multiplies its softmax scale by m(factor, mscale_all_dim)². cos and sin are multiplied by m(factor, mscale) /
    m(factor, mscale_all_dim): 1 for V3; 0.1·ln(factor) + 1 where mscale_all_dim is 0, as in Qwen2's YaRN.
    """

    factor: float
    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 1.0


@dataclasses.dataclass(frozen=True)
class Llama3Rope:
    """Llama 3.1's context extension by wavelength (spec A.8.2); no factor on cos, sin or scores."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_length: int


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
    score_function: ScoreFunction = "sigmoid"
    """Affinities, and with them a group's score: the sum of its best two (sigmoid, V3) or its best (softmax, V2)."""
    normalize_weights: bool = True
    """Weights of the chosen experts sum to routed_scaling; V2's do not."""
    router_bias: bool = True
    """Selection by affinity + bias (V3); without it there is no buffer (V2)."""
    expert_parallel: ExpertParallel = "auto"
    """How tokens and experts meet on a mesh: as XLA partitions the layer, or a way of ``r1jax.models.expert_parallel``."""
    expert_capacity: float = 1.25
    """Rows for which a device has room, over their mean, in the ways of expert_parallel; more take further rounds."""
    num_mtp_layers: int = 0
    """Depth M of multi-token prediction (V3 Sec. 2.2)."""
    # common
    tie_embeddings: bool = False
    rope_theta: float = 10_000.0
    yarn: Yarn | None = None
    llama3_rope: Llama3Rope | None = None
    max_length: int = 0
    """Longest sequence that the model is meant for, in tokens; 0 where unknown. It limits nothing here."""
    rms_eps: float = 1e-6
    """Of all norms but those of MLA's latents, which have 1e-6."""
    init_std: float = 0.006
    dtype: str = "float32"
    """Type of activations and of matmul inputs (a type of numpy or jax becomes its name); the trainer keeps parameters in float32."""
    attention_implementation: AttentionImplementation = "auto"
    """Of ``r1jax.kernels.flash_attention``, in training and prefill. One that is named and cannot run here is an error."""
    expert_implementation: ExpertImplementation = "auto"
    """Of ``r1jax.kernels.grouped_matmul``, alike."""
    remat: Literal["none", "dots", "full", "everything"] = "none"
    """What the backward pass computes again: nothing; all but the matmuls' results (a third of the memory); each layer but
    for attention's result, so that attention itself runs once forward ("reference" makes its weights again); each whole layer.
    """

    def __post_init__(self):
        def require(condition: bool, message: str):
            if not condition:
                raise ValueError(f"ModelConfig: {message}")

        def require_least(least: int, *fields: str):
            word = "be positive" if least else "not be negative"
            for field in fields:
                require(getattr(self, field) >= least, f"{field} must {word}, got {getattr(self, field)}")

        def require_one_of(choices, field: str):
            names, value = get_args(choices), getattr(self, field)
            require(value in names, f"{field} must be one of {names}, got {value!r}")

        def require_multiple(field: str, of: str):
            value, divisor = getattr(self, field), getattr(self, of)
            require(value % divisor == 0, f"{field} {value} is not a multiple of {of} {divisor}")

        def require_within(least: int, field: str, most: int):
            value = getattr(self, field)
            require(least <= value <= most, f"{field} {value} must be in {least}..{most}")

        def require_that(is_sound: bool, field: str, rule: str):
            require(is_sound, f"{field} must {rule}, got {getattr(self, field)!r}")

        require_least(1, "vocab_size", "num_layers", "model_dim", "ffn_dim", "num_heads")
        require_least(0, "num_experts", "num_mtp_layers", "max_length", "rms_eps", "init_std")
        require_one_of(AttentionImplementation, "attention_implementation")
        require_one_of(ExpertImplementation, "expert_implementation")
        require_that(1 < self.rope_theta < math.inf, "rope_theta", "be finite and more than 1")
        require_that(self.attention in ("gqa", "mla"), "attention", "be 'gqa' or 'mla'")
        if self.attention == "gqa":
            require_least(1, "num_kv_heads")
            require_multiple("num_heads", "num_kv_heads")
            require_that(self.head_dim > 0 and self.head_dim % 2 == 0, "head_dim", "be even and positive")
        else:
            require_least(1, "kv_lora_rank", "nope_head_dim", "rope_head_dim", "value_head_dim")
            require_least(0, "q_lora_rank")
            require_that(self.rope_head_dim % 2 == 0, "rope_head_dim", "be even")
        if self.num_experts:
            require_least(1, "num_groups", "expert_ffn_dim")
            require_least(0, "num_shared_experts")
            require_within(1, "num_experts_per_token", self.num_experts)
            require_multiple("num_experts", "num_groups")
            require_within(1, "num_groups_per_token", self.num_groups)
            chosen, groups = self.num_experts_per_token, self.num_groups_per_token
            allowed = groups * self.num_experts // self.num_groups
            message = f"num_experts_per_token {chosen} exceeds the {allowed} experts that {groups} groups hold"
            require(chosen <= allowed, message)
            require_within(0, "num_dense_layers", self.num_layers - 1)
            require_one_of(ExpertParallel, "expert_parallel")
            require_that(0 < self.expert_capacity < math.inf, "expert_capacity", "be positive and finite")
            require_one_of(ScoreFunction, "score_function")
        require(not (self.yarn and self.llama3_rope), "yarn and llama3_rope exclude each other")
        if scaling := self.yarn or self.llama3_rope:
            is_sound = 0 < scaling.factor < math.inf and scaling.original_length > 0
            require(is_sound, f"factor and original_length must be positive, got {scaling}")
        if yarn := self.yarn:
            is_sound = yarn.beta_fast >= yarn.beta_slow > 0
            require(is_sound, f"beta_fast must be at least beta_slow, and that positive, got {yarn}")
        if rope := self.llama3_rope:
            require(
                rope.high_freq_factor > rope.low_freq_factor,
                f"high_freq_factor must exceed low_freq_factor, got {rope}",
            )
        object.__setattr__(self, "dtype", dtype_name(self.dtype))
        require_that(jnp.issubdtype(jnp.dtype(self.dtype), jnp.floating), "dtype", "be a floating-point type")

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ModelConfig":
        """The inverse of ``dataclasses.asdict``, for a config read from JSON; fields that are not given take defaults."""
        nested = {"yarn": Yarn, "llama3_rope": Llama3Rope}
        return cls(**{k: nested[k](**v) if k in nested and isinstance(v, Mapping) else v for k, v in fields.items()})

    @property
    def num_moe_layers(self) -> int:
        return self.num_layers - self.num_dense_layers if self.num_experts else 0

    @property
    def rotated_dim(self) -> int:
        """Width of the part of a head that RoPE turns."""
        return self.head_dim if self.attention == "gqa" else self.rope_head_dim
