"""Meshes: how many parts each mesh axis cuts arrays into (``r1jax.sharding`` has the rules)."""

from dataclasses import dataclass
from typing import Any

from r1jax.specs.fields import Count, Natural, option


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
