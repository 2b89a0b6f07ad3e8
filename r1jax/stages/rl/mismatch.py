"""How far the sampler is from the trainer: by depth of context, and in each router's choice of experts.

Metrics of a phase, over the tokens of its loss:

- ``sampling/from_128/logp_difference_mean``, ``.../logp_difference_max`` and ``.../mismatch_kl`` (the k3 estimate of
  KL(sampler ‖ trainer)) of the tokens that 128 or more come before, up to the next bound, and ``.../share``, how many
  of all tokens these are. Bounds are an eighth, a quarter and a half of the longest sequence that a phase may have.
- ``sampling/routing_difference/moe_00``, ...: share of tokens whose set of experts was another in the sampler than this
  router would choose in the trainer; where ``engine.record_routing`` is set. Under ``replay_routing`` all that a router
  sees comes of the sampler's experts, so this counts what flips there and not what follows from flips before it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.objectives.kl import kl_estimate

_FROM = "sampling/from_"
_OF_DEPTH = ("logp_difference_mean", "mismatch_kl")


def recorded_experts(batch: Mapping[str, Any]) -> jax.Array | None:
    """The sampler's experts [R, T, L, K] of a micro-batch, whether or not they are replayed."""
    return batch.get("replayed", batch.get("recorded"))


def mismatch_metrics(
    batch: Mapping[str, Any], old_logp_BT, counted_BT, aux: Mapping[str, jax.Array], *, longest: int
) -> dict[str, Any]:
    """Sums over the counted tokens of a micro-batch, and "max", as ``grpo_loss`` gives them; no gradient.

    old_logp_BT: the trainer's log-probs under the weights that sampled. aux: with "experts_LBTK" where the batch has
    the sampler's. longest: tokens of the longest sequence.
    """
    trainer_BT, sampler_BT = jax.lax.stop_gradient(old_logp_BT), batch["sampler_logp"]
    difference_BT = jnp.abs(trainer_BT - sampler_BT)
    kl_BT = kl_estimate(sampler_BT, trainer_BT, kind="k3")
    starts = sorted({0, longest // 8, longest // 4, longest // 2})
    sums, maxima = {}, {}
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        depth_BT = batch["positions"] + 1
        in_BT = counted_BT & (depth_BT >= start) & (True if end is None else depth_BT < end)
        values = {"logp_difference_mean": difference_BT, "mismatch_kl": kl_BT, "share": jnp.ones_like(kl_BT)}
        for name, value_BT in values.items():
            sums[f"{_FROM}{start}/{name}"] = jnp.sum(jnp.where(in_BT, value_BT, 0.0))
        maxima[f"{_FROM}{start}/logp_difference_max"] = jnp.max(jnp.where(in_BT, difference_BT, 0.0))
    if (sampled_BTLK := recorded_experts(batch)) is not None:
        own_BTLK = jnp.moveaxis(aux["experts_LBTK"], 0, 2)
        differs_BTL = (jnp.sort(sampled_BTLK.astype(jnp.int32)) != jnp.sort(own_BTLK)).any(-1)
        counts_L = jnp.sum(differs_BTL & counted_BT[..., None], (0, 1), dtype=jnp.float32)
        sums |= {f"sampling/routing_difference/moe_{layer:02d}": count for layer, count in enumerate(counts_L)}
    return {**sums, "max": maxima}


def divided_by_shares(row: Mapping[str, float]) -> dict[str, float]:
    """A phase's row, whose means are over all tokens, with those of each depth over its tokens; none where it has none."""
    row = dict(row)
    for prefix in [name.removesuffix("/share") for name in row if name.startswith(_FROM) and name.endswith("/share")]:
        share = row[f"{prefix}/share"]
        for name in _OF_DEPTH:
            total = row.pop(f"{prefix}/{name}")
            row |= {f"{prefix}/{name}": total / share} if share else {}
        if not share:
            del row[f"{prefix}/share"], row[f"{prefix}/logp_difference_max"]
    return row
