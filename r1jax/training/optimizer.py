"""AdamW with gradient clipping and a warm-up schedule, as one optax transformation.

R1 trains with AdamW at a constant rate in RL (R1 Sec. B.1) and cosine to a tenth in SFT (R1 Sec. B.4.2: 5e-6 to
5e-7, batch 64). Parameters and updates are float32; the model casts to its compute type in its own forward. Moments are
float32, or kept in bfloat16 as V3 does (V3 Sec. 3.3.3; all of AdamW is still computed in float32): 4 bytes a parameter less.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import optax

SCHEDULES = ("constant", "cosine")
MOMENTS_DTYPES = ("float32", "bfloat16")
OPTIMIZER_KEYS = (
    "schedule",
    "warmup_steps",
    "final_fraction",
    "b1",
    "b2",
    "eps",
    "weight_decay",
    "clip_norm",
    "moments_dtype",
)
"""Optional settings of `make_optimizer` that a config may give."""
_HALF_STEP = 2.0**-8
"""Half of bfloat16's largest step from one number to the next, relative to the number."""
_NOT_DECAYED = re.compile(r"b_.*|.*(scale|bias|norm)(_[A-Z]+)?")


def is_matrix(path: str, array: jax.Array) -> bool:
    """Whether weight decay applies to the parameter at `path` ("layers/attention/w_q").

    Norm scales and biases are left alone. They are told by name and not by rank, because stacked layers make a norm's
    scale [L, D]. Not decayed: any vector, and a last path component that starts with "b_" or ends in "scale", "bias" or
    "norm" (before a suffix of dims).
    """
    return array.ndim >= 2 and not _NOT_DECAYED.fullmatch(path.rpartition("/")[2])


def make_schedule(
    *, learning_rate: float, schedule: str, warmup_steps: int, total_steps: int, final_fraction: float
) -> optax.Schedule:
    """The learning rate as a function of the number of updates done.

    Linear from 0 over `warmup_steps` (the first update has rate learning_rate / warmup_steps, not 0), then constant,
    or a cosine that reaches learning_rate * final_fraction at `total_steps` and stays there.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {SCHEDULES}, got {schedule!r}")
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f"warmup_steps must be in [0, total_steps), got {warmup_steps} of {total_steps}")
    if not 0 <= learning_rate < math.inf or not 0 <= final_fraction <= 1:
        raise ValueError(
            f"learning_rate {learning_rate} must be finite and >= 0, final_fraction {final_fraction} in [0, 1]"
        )
    if schedule == "constant":
        main = optax.constant_schedule(learning_rate)
    else:
        main = optax.cosine_decay_schedule(learning_rate, total_steps - warmup_steps, alpha=final_fraction)
    if warmup_steps == 0:
        return main
    warmup = optax.linear_schedule(learning_rate / warmup_steps, learning_rate, max(warmup_steps - 1, 1))
    return optax.join_schedules([warmup, main], [warmup_steps])


def make_optimizer(
    *,
    learning_rate: float,
    schedule: str = "constant",
    warmup_steps: int = 0,
    total_steps: int,
    final_fraction: float = 0.1,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
    moments_dtype: str = "float32",
    is_decayed: Callable[[str, Any], bool] = is_matrix,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW after clipping by global norm.

    Args:
      learning_rate, schedule, warmup_steps, total_steps, final_fraction: see `make_schedule`.
      b1, b2, eps: Adam's; the defaults are V3's (Sec. 4.2: 0.9, 0.95).
      weight_decay: decoupled, times the learning rate (V3 Sec. 4.2: 0.1 in pre-training).
      clip_norm: gradients are scaled down to this global l2 norm; None leaves them.
      moments_dtype: how both moments are kept between updates, "float32" or "bfloat16" (rounded to the nearest).
      is_decayed: (path, array) -> whether weight decay applies.

    Returns:
      The transformation and the schedule that it follows (for the log: schedule(state["step"])).

    Raises ValueError, naming the setting, for one that cannot train (nan and inf among them).
    """
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm must be positive or None, got {clip_norm}")
    if not (0 <= b1 < 1 and 0 <= b2 < 1 and 0 < eps < math.inf and 0 <= weight_decay < math.inf):
        raise ValueError(
            f"b1 {b1} and b2 {b2} must be in [0, 1), eps {eps} positive, weight_decay {weight_decay} finite and >= 0"
        )
    if moments_dtype not in MOMENTS_DTYPES:
        raise ValueError(f"moments_dtype must be one of {MOMENTS_DTYPES}, got {moments_dtype!r}")
    if moments_dtype == "bfloat16" and 1 - max(b1, b2) <= _HALF_STEP:
        raise ValueError(
            f"b1 {b1} and b2 {b2} must be below {1 - _HALF_STEP} for moments_dtype 'bfloat16': a moment that falls by less in an "
            "update is rounded to what it was, and never falls"
        )
    rate = make_schedule(
        learning_rate=learning_rate,
        schedule=schedule,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        final_fraction=final_fraction,
    )

    def decay_mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, array: is_decayed(jax.tree_util.keystr(path, simple=True, separator="/"), array), params
        )

    adamw = optax.chain(  # optax.adamw, with moments of a type
        scale_by_adam(b1=b1, b2=b2, eps=eps, moments_dtype=moments_dtype),
        optax.add_decayed_weights(weight_decay, decay_mask),
        optax.scale_by_learning_rate(rate),
    )
    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    return optax.chain(clip, adamw), rate


def scale_by_adam(*, b1: float, b2: float, eps: float, moments_dtype: str) -> optax.GradientTransformation:
    """`optax.scale_by_adam` that keeps both moments in `moments_dtype` from one update to the next; its step uses them unrounded."""
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)

    def cast(state: Any, dtype: str) -> Any:
        return state._replace(mu=optax.tree.cast(state.mu, dtype), nu=optax.tree.cast(state.nu, dtype))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = adam.update(updates, cast(state, "float32"), params)
        return updates, cast(state, moments_dtype)

    return optax.GradientTransformation(lambda params: cast(adam.init(params), moments_dtype), update)
