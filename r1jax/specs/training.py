"""The devices (``r1jax.sharding`` has the rules) and the optimizer."""

from dataclasses import dataclass
from typing import Any, Literal

from r1jax.specs.fields import Count, Decay, Natural, NotNegative, Positive, Share, option

_HALF_STEP = 2.0**-8  # half of bfloat16's largest step from one number to the next, relative to the number


@dataclass(frozen=True, kw_only=True)
class MeshSpec:
    """Devices as a grid; the product of the axes is the number of devices."""

    data: Count = option(1, "Parts of the batch, each with all weights.", unit="devices")
    fsdp: Count = option(1, "Parts of the batch among which the weights are split too (ZeRO-3).", unit="devices")
    expert: Count = option(1, "Parts of the experts; a part of the batch each.", unit="devices")
    tensor: Count = option(1, "Parts of heads, feed-forward and vocabulary.", unit="devices")
    sequence: Count = option(1, "Parts of the tokens of a row.", unit="devices")
    slices: dict[str, Count] = option(
        factory=dict, explanation="Axes from slice (pod, GPU host) to slice: {'data': 2}."
    )

    def axes(self) -> dict[str, Any]:
        """What ``r1jax.sharding.make_mesh`` takes: the axes that cut anything."""
        sizes = {name: getattr(self, name) for name in ("data", "fsdp", "expert", "tensor", "sequence")}
        cut = {name: size for name, size in sizes.items() if size > 1}
        return cut | ({"slices": self.slices} if self.slices else {})


@dataclass(frozen=True, kw_only=True)
class RolloutMeshSpec(MeshSpec):
    """The sampler's arrangement of the trainer's devices, or devices of its own."""

    first_device: Natural | None = option(None, "Its first device, where it has some of its own; None: the trainer's.")

    def axes(self) -> dict[str, Any]:
        """What ``r1jax.rollout.weight_sync.make_rollout_mesh`` takes."""
        return super().axes() | ({} if self.first_device is None else {"first_device": self.first_device})


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """AdamW with a warm-up and clipping (``r1jax.training.optimizer``)."""

    learning_rate: NotNegative = option(3e-6, "The peak (R1 Sec. B.1: 3e-6 in RL).")
    schedule: Literal["constant", "cosine"] = option("constant", "After the warm-up.")
    warmup_steps: Natural = option(0, "Linear from 0 to the peak.", unit="updates")
    final_fraction: Share = option(0.1, "What is left of the peak at the end of a cosine (R1 Sec. B.4.2: a tenth).")
    b1: Decay = option(0.9, "Decay of the first moment (V3 Sec. 4.2).")
    b2: Decay = option(0.95, "Decay of the second moment (V3 Sec. 4.2).")
    eps: Positive = option(1e-8, "Added to the root of the second moment.")
    weight_decay: NotNegative = option(0.0, "Decoupled, times the rate (V3 Sec. 4.2: 0.1 in pre-training).")
    clip_norm: Positive | None = option(1.0, "Gradients are scaled down to this l2 norm (V3 Sec. 4.2); None: never.")
    moments_dtype: Literal["float32", "bfloat16"] = option("float32", "Of the moments (V3 Sec. 3.3.3).")

    def __post_init__(self):
        if self.moments_dtype == "bfloat16" and 1 - max(self.b1, self.b2) <= _HALF_STEP:
            raise ValueError(
                f"moments_dtype='bfloat16' needs b1={self.b1} and b2={self.b2} below {1 - _HALF_STEP}: a moment that falls "
                "by less in an update is rounded to what it was, and never falls"
            )

    def check_steps(self, total_steps: int) -> None:
        """Raises ValueError where the warm-up is not over before ``total_steps`` updates."""
        if self.warmup_steps >= total_steps:
            raise ValueError(
                f"optimizer.warmup_steps={self.warmup_steps} must be below the {total_steps} updates of the run"
            )


@dataclass(frozen=True, kw_only=True)
class SupervisedOptimizerSpec(OptimizerSpec):
    """That of supervised fine-tuning."""

    learning_rate: NotNegative = option(5e-6, "The peak (R1 Sec. B.4.2: 5e-6; students 2e-5 to 1e-4, Table 6).")
    schedule: Literal["constant", "cosine"] = option("cosine", "After the warm-up (R1 Sec. B.4.2).")


@dataclass(frozen=True, kw_only=True)
class RewardModelOptimizerSpec(OptimizerSpec):
    """That of reward models."""

    learning_rate: NotNegative = option(6e-6, "The peak (R1 Sec. B.2).")
