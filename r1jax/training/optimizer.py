"""AdamW with gradient clipping and a warm-up schedule, as one optax transformation.

R1 trains with AdamW at a constant rate in RL (R1 Sec. B.1) and cosine to a tenth in SFT (R1 Sec. B.4.2: 5e-6 to 5e-7,
batch 64). Parameters and updates are float32; the model casts to its compute type in its own forward. Moments are
float32, or kept in bfloat16 as V3 does (V3 Sec. 3.3.3; all of AdamW is still computed in float32): 4 bytes a parameter
less.
"""

import re
from typing import Any

import jax
import optax

from r1jax.members import setting
from r1jax.specs.training import OptimizerSpec

_NOT_DECAYED = re.compile(r"b_.*|.*(scale|bias|norm)(_[A-Z]+)?")


def is_matrix(path: str, array: jax.Array) -> bool:
    """Whether weight decay applies to the parameter at `path` ("layers/attention/w_q").

    Norm scales and biases are left alone. They are known by name and not by rank, because stacked layers make a norm's
    scale [L, D]. Not decayed: any vector, and a last path component that starts with "b_" or ends in "scale", "bias" or
    "norm" (before a suffix of dims).
    """
    return array.ndim >= 2 and not _NOT_DECAYED.fullmatch(path.rpartition("/")[2])


def make_rate(spec: OptimizerSpec, *, total_steps: int) -> optax.Schedule:
    """The learning rate as a function of the number of updates done.

    Linear from 0 over the warm-up (the first update has rate learning_rate / warmup_steps, not 0), then constant, or a
    cosine that reaches learning_rate * final_fraction at `total_steps` and stays there. Raises ValueError for a warm-up
    that is longer than the run.
    """
    spec.check_steps(total_steps)
    warmup_steps = spec.warmup_steps

    def rate(step: Any) -> Any:
        peak = setting("optimizer.learning_rate", spec.learning_rate)
        if spec.schedule == "constant":
            main = optax.constant_schedule(peak)
        else:
            main = optax.cosine_decay_schedule(peak, total_steps - warmup_steps, alpha=spec.final_fraction)
        if warmup_steps == 0:
            return main(step)
        warmup = optax.linear_schedule(peak / warmup_steps, peak, max(warmup_steps - 1, 1))
        return optax.join_schedules([warmup, main], [warmup_steps])(step)

    return rate


def make_optimizer(
    spec: OptimizerSpec, *, total_steps: int, unused: tuple[str, ...] = ()
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW after clipping by global norm, and the schedule that it follows (for the log: schedule(state["step"])).

    MTP's gradient is clipped by a norm of its own: it must not shorten the step of a policy that it does not train.

    total_steps: updates of the whole run, which a cosine goes over. unused: names at the top of the parameters of what
    no loss uses. Its gradient is 0, and without decay it stays bit for bit. Raises ValueError for a warm-up that is
    longer than the run.
    """
    rate = make_rate(spec, total_steps=total_steps)

    def is_decayed(path: str, array: jax.Array) -> bool:
        return is_matrix(path, array) and path.partition("/")[0] not in unused

    def decay_mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, array: is_decayed(jax.tree_util.keystr(path, simple=True, separator="/"), array), params
        )

    adamw = optax.chain(  # optax.adamw, with moments of a type
        scale_by_adam(b1=spec.b1, b2=spec.b2, eps=spec.eps, moments_dtype=spec.moments_dtype),
        optax.add_decayed_weights(spec.weight_decay, decay_mask),
        optax.scale_by_learning_rate(rate),
    )
    clip = optax.identity() if spec.clip_norm is None else _clip_by_norm(spec.clip_norm)
    return optax.chain(clip, adamw), rate


def _clip_by_norm(largest: float) -> optax.GradientTransformation:
    """Clips the gradient of MTP, and of all else, each to a norm of at most `largest`."""

    def clip(grads: Any) -> Any:
        return optax.clip_by_global_norm(largest).update(grads, optax.EmptyState())[0]

    def clip_apart(grads: Any, _: Any) -> Any:
        mtp = {name: grad for name, grad in grads.items() if name == "mtp"}
        others = {name: grad for name, grad in grads.items() if name != "mtp"}
        return clip(mtp) | clip(others)

    return optax.stateless(clip_apart)


def scale_by_adam(*, b1: float, b2: float, eps: float, moments_dtype: str) -> optax.GradientTransformation:
    """`optax.scale_by_adam` that keeps both moments in `moments_dtype`; an update's step uses its new ones unrounded."""
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)

    def cast(state: Any, dtype: str) -> Any:
        return state._replace(mu=optax.tree.cast(state.mu, dtype), nu=optax.tree.cast(state.nu, dtype))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = adam.update(updates, cast(state, "float32"), params)
        return updates, cast(state, moments_dtype)

    return optax.GradientTransformation(lambda params: cast(adam.init(params), moments_dtype), update)
