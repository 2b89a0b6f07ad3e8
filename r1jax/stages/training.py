"""What the stages that train share: train state and update of a loss, and an update that must be finite."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from r1jax.training.learner import (
    NonFiniteError,
    TrainState,
    Update,
    add_trees,
    init_state,
    make_update,
    update_once,
)
from r1jax.training.offload import OPTIMIZER, to_host_memory
from r1jax.training.optimizer import make_optimizer


def make_train_state(
    spec: Any, loss_function: Callable, params, buffers, *, num_updates: int, add_metrics: Callable = add_trees
) -> tuple[TrainState, Update]:
    """Train state and jitted update from weights that are laid out on their mesh, or ShapeDtypeStructs of them."""
    optimizer, schedule = make_optimizer(spec.optimizer, total_steps=num_updates)
    state = init_state(params, buffers, optimizer=optimizer)
    if OPTIMIZER in getattr(spec, "offload", ()):
        state["opt_state"] = to_host_memory(state["opt_state"])
    update = make_update(
        loss_function, optimizer, schedule=schedule, state=state, bias_rate=spec.bias_rate, add_metrics=add_metrics
    )
    return state, update


def finite_update(
    state: TrainState, update: Update, microbatches: Sequence[Any]
) -> tuple[TrainState, dict[str, Any], dict[str, jax.Array]]:
    """``update_once``; raises NonFiniteError, naming the update, where the gradient was not finite."""
    state, sums, info = update_once(state, update, microbatches)
    if not info.pop("finite"):
        number = int(state["step"]) + 1
        raise NonFiniteError(f"update {number}: the gradient is not finite; the last good checkpoint is kept")
    return state, sums, info
