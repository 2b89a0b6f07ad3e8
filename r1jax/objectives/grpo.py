"""The GRPO objective at token level (R1 Eq. 1-3 as DSM Eq. 3-4 writes it) and its published variants.

    loss = - sum_t w_t { c_t min(rho_t A_t, clip(rho_t, 1 - low, 1 + high) A_t) - beta KL_t }
    rho_t = exp(log policy - log old)

w comes from `token_weights` (the mean over sequences, tokens or a constant), A from `group_advantages`, KL from
`kl_estimate`, c is the truncated importance weight (1 without it). One update on fresh data has rho = 1, and there the
loss is beta KL however good the rewards are: watch the reward, not the loss.

Variants: `clip_high` > `clip_low` is DAPO's clip-higher; `dual_clip` bounds the surrogate at c A where A < 0 (Ye et
al. 2020, dual-clip PPO); `ratio_level="sequence"` is GSPO in its token form; `importance_cap` is truncated importance
sampling for a sampler whose log-probs differ from the trainer's (Yao et al. 2025, TIS).

Deviations: 1. R1 prints whole-output ratios; DSM's token form is the default. 2. R1's clip ratio is 10, so the lower
bound 1 - 10 never acts. 3. Log-ratios are clamped to +-20 nats before exp.
"""

import jax
import jax.numpy as jnp

from r1jax.objectives.kl import clamp_log_ratio, kl_estimate
from r1jax.objectives.sums import Metrics, check_shapes, segment_sum


def grpo_loss(
    logp_BT: jax.Array,
    *,
    old_logp_BT: jax.Array,
    advantage_BT: jax.Array,
    weight_BT: jax.Array,
    segment_ids_BT: jax.Array,
    ref_logp_BT: jax.Array | None = None,
    sampler_logp_BT: jax.Array | None = None,
    entropy_BT: jax.Array | None = None,
    clip_low: float = 10.0,
    clip_high: float = 10.0,
    dual_clip: float | None = None,
    kl_coef: float = 0.001,
    kl_estimator: str = "k3",
    ratio_level: str = "token",
    importance_cap: float | None = None,
) -> tuple[jax.Array, Metrics]:
    """The loss of one micro-batch, to be added to those of the others, and its metrics. Only `logp_BT` gets a gradient.

    Args:
      logp_BT: log-probs of the sampled tokens under the policy, in nats, at the sampling temperature.
      old_logp_BT: under the policy that the phase began with, recomputed by the trainer; at the first update equal to
        logp. It is the policy that sampled them, unless some of them are of older weights.
      advantage_BT: each token's advantage, the same over a sequence.
      weight_BT: from `token_weights` with the counts of the whole batch. Where it is 0 a token takes no part in
        anything, and no input's value there (NaN included) matters.
      segment_ids_BT: sequence of each token within its row, 0 = padding.
      ref_logp_BT: under the reference. Needed unless `kl_coef` is 0; with it "kl" is among the metrics.
      sampler_logp_BT: as the sampler reported them. Needed by `importance_cap`; with it "sampling/..." are metrics.
      entropy_BT: entropy of the policy at each token, nats; a metric alone.
      clip_low, clip_high: the clip range of the ratio is [1 - clip_low, 1 + clip_high].
      dual_clip: above 1, or None for none.
      kl_coef: beta.
      kl_estimator: see `kl_estimate`.
      ratio_level: "token", or "sequence" for exp(mean of the sequence's log-ratios) (GSPO, token form).
      importance_cap: c_t = min(exp(old - sampler), cap) on the policy term, no gradient; None for none.

    Returns float32 scalars: the loss, and metrics: sums over the tokens of non-zero weight, "num_tokens", and under
    "max" what is joined by maximum (`add_metrics`, then `mean_metrics` once).

    Raises ValueError for shapes that differ, an unknown option or a missing input.
    """
    inputs = {
        "logp_BT": logp_BT,
        "old_logp_BT": old_logp_BT,
        "advantage_BT": advantage_BT,
        "ref_logp_BT": ref_logp_BT,
        "sampler_logp_BT": sampler_logp_BT,
        "entropy_BT": entropy_BT,
    }
    check_shapes(2, **inputs, weight_BT=weight_BT, segment_ids_BT=segment_ids_BT)
    if ratio_level not in ("token", "sequence"):
        raise ValueError(f"ratio_level must be one of token, sequence, got {ratio_level!r}")
    if dual_clip is not None and not dual_clip > 1.0:
        raise ValueError(f"dual_clip must be above 1, got {dual_clip}")
    if ref_logp_BT is None and kl_coef != 0.0:
        raise ValueError(f"kl_coef is {kl_coef} but ref_logp_BT is missing: pass it, or kl_coef=0")
    if importance_cap is not None and not importance_cap > 0.0:
        raise ValueError(f"importance_cap must be positive, got {importance_cap}")
    if importance_cap is not None and sampler_logp_BT is None:
        raise ValueError(f"importance_cap is {importance_cap} but sampler_logp_BT is missing")
    counted_BT = weight_BT != 0
    # 0 where nothing counts, so that neither values nor gradients there can spread.
    arrays = {
        name: jnp.where(counted_BT, jnp.asarray(array, jnp.float32), 0.0)
        for name, array in inputs.items()
        if array is not None
    }
    logp_BT = arrays.pop("logp_BT")
    constants = jax.lax.stop_gradient(arrays)
    old_logp_BT, advantage_BT = constants["old_logp_BT"], constants["advantage_BT"]

    log_ratio_BT = clamp_log_ratio(logp_BT - old_logp_BT)
    if ratio_level == "sequence":
        log_ratio_BT = _sequence_log_ratio(logp_BT, old_logp_BT, counted_BT, segment_ids_BT)
    ratio_BT = jnp.exp(log_ratio_BT)
    clipped_BT = jnp.clip(ratio_BT, 1.0 - clip_low, 1.0 + clip_high) * advantage_BT
    policy_BT = jnp.minimum(ratio_BT * advantage_BT, clipped_BT)  # R1 Eq. 1
    if dual_clip is not None:
        policy_BT = jnp.where(advantage_BT < 0, jnp.maximum(policy_BT, dual_clip * advantage_BT), policy_BT)
    # Where the clip takes the gradient away: below for A < 0, above for A > 0, either (TRL's names).
    low_BT = (ratio_BT < 1.0 - clip_low) & (advantage_BT < 0)
    high_BT = (ratio_BT > 1.0 + clip_high) & (advantage_BT > 0)
    sums = {
        "ratio/mean": ratio_BT,
        "clip_ratio/low_mean": low_BT,
        "clip_ratio/high_mean": high_BT,
        "clip_ratio/region_mean": low_BT | high_BT,
    }
    maxima = {"ratio/max": ratio_BT}

    if (
        "sampler_logp_BT" in constants
    ):  # against the trainer: |difference|, and the k3 estimate of KL(sampler || trainer)
        difference_BT = jnp.abs(old_logp_BT - constants["sampler_logp_BT"])
        sums["sampling/sampling_logp_difference/mean"] = difference_BT
        sums["sampling/mismatch_kl"] = kl_estimate(constants["sampler_logp_BT"], old_logp_BT, kind="k3")
        maxima["sampling/sampling_logp_difference/max"] = difference_BT
    if importance_cap is not None:
        importance_BT = truncated_importance(old_logp_BT, constants["sampler_logp_BT"], cap=importance_cap)
        sums["sampling/importance_sampling_ratio/mean"] = importance_BT
        policy_BT = importance_BT * policy_BT

    objective_BT = policy_BT
    if "ref_logp_BT" in constants:
        kl_BT = kl_estimate(logp_BT, constants["ref_logp_BT"], kind=kl_estimator, old_logp=old_logp_BT)
        sums["kl"] = kl_BT
        objective_BT = policy_BT - kl_coef * kl_BT
    if "entropy_BT" in constants:
        sums["entropy"] = constants["entropy_BT"]

    loss = -jnp.sum(weight_BT * jnp.where(counted_BT, objective_BT, 0.0))
    return loss, _reduce(sums, maxima, counted_BT)


def truncated_importance(old_logp: jax.Array, sampler_logp: jax.Array, *, cap: float) -> jax.Array:
    """min(old / sampler, cap) at each token: makes up for a sampler that is not quite the policy (TIS). No gradient."""
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(clamp_log_ratio(old_logp - sampler_logp)), cap))


def _sequence_log_ratio(
    logp_BT: jax.Array, old_logp_BT: jax.Array, counted_BT: jax.Array, segment_ids_BT: jax.Array
) -> jax.Array:
    """log s_{i,t} = stop[mean over o_i of log-ratio] + log p_t - stop[log p_t] (GSPO-token): own gradients."""
    sizes_BT = segment_sum(counted_BT.astype(jnp.float32), segment_ids_BT)
    mean_BT = segment_sum(logp_BT - old_logp_BT, segment_ids_BT) / jnp.maximum(sizes_BT, 1.0)
    return jax.lax.stop_gradient(clamp_log_ratio(mean_BT)) + logp_BT - jax.lax.stop_gradient(logp_BT)


def _reduce(sums: dict[str, jax.Array], maxima: dict[str, jax.Array], counted_BT: jax.Array) -> Metrics:
    """Sums and maxima over the counted tokens; every value of `maxima` is at least 0, so an empty batch gives 0."""
    metrics: Metrics = {
        name: jnp.sum(jnp.where(counted_BT, value_BT, 0.0), dtype=jnp.float32) for name, value_BT in sums.items()
    }
    metrics["num_tokens"] = jnp.sum(counted_BT, dtype=jnp.float32)
    metrics["max"] = {name: jnp.max(jnp.where(counted_BT, value_BT, 0.0)) for name, value_BT in maxima.items()}
    return jax.lax.stop_gradient(metrics)
