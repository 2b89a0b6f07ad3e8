"""The train state and its update: gradients are summed over micro-batches, then applied once.

A train state is a plain dict of arrays:
  "step"       int32 scalar, updates applied
  "params"     float32 master weights
  "opt_state"  optax's, laid out over the mesh as the parameters are
  "buffers"    router biases; no optimizer touches them
Other keys ("reference", ...) may stand next to these; `apply` hands them on as they are.

Losses and metrics are sums whose weights are normalised over the whole batch beforehand, so adding up micro-batches is
the exact gradient of the batch loss, whatever the split.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from r1jax import members
from r1jax.training import offload

TrainState = dict[str, Any]
Tree = Any
LossFunction = Callable[[Tree, Tree, Tree], tuple[jax.Array, dict[str, Any]]]

_UPDATED = ("step", "params", "opt_state", "buffers")


class NonFiniteError(FloatingPointError):
    """An update had a non-finite gradient; the state is the one from before it."""


class Update(NamedTuple):
    """The step functions of a stage, jitted; see `make_update`."""

    zeros: Callable[..., tuple[Tree, dict[str, Any]]]
    accumulate: Callable[..., tuple[Tree, dict[str, Any]]]
    apply: Callable[..., tuple[TrainState, dict[str, jax.Array]]]


def init_state(params: Tree, buffers: Tree, *, optimizer: optax.GradientTransformation) -> TrainState:
    """A new train state from parameters that are already laid out over their mesh.

    Parameters become float32 master weights, in new arrays. Moments take the sharding of their parameter; scalars and
    buffers are replicated over the same mesh. Of ShapeDtypeStructs with shardings it is the state's, nothing allocated.
    """
    replicated = _replicated(params)
    buffers = buffers if is_abstract(params) else jax.device_put(buffers, replicated)

    def init(params: Tree, buffers: Tree) -> TrainState:
        params = jax.tree.map(lambda a: jnp.array(a, jnp.float32, copy=True), params)
        opt_state, buffers = optimizer.init(params), jax.tree.map(jnp.copy, buffers)
        return {"step": jnp.zeros((), jnp.int32), "params": params, "opt_state": opt_state, "buffers": buffers}

    state = jax.eval_shape(init, params, buffers)
    shardings = jax.tree.map(lambda _: replicated, state)
    shardings["params"] = jax.tree.map(lambda array: array.sharding, params)
    shardings["opt_state"] = optax.tree.map_params(
        optimizer,
        lambda _, sharding: sharding,
        state["opt_state"],
        shardings["params"],
        transform_non_params=lambda _: replicated,
    )
    if is_abstract(params):
        return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), state, shardings)
    return members.jit(init, rank=2, out_shardings=shardings)(params, buffers)


def is_abstract(tree: Tree) -> bool:
    """Is this a tree of shapes, to plan or compile with, rather than of arrays?"""
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))


def copy_tree(tree: Tree) -> Tree:
    """New arrays with the same values and shardings (for a reference model: `apply` consumes the state it is given)."""
    if members.here() is not None:
        return members.together(tree)
    return tree if is_abstract(tree) else jax.tree.map(jnp.copy, tree)


def add_trees(a: Tree, b: Tree) -> Tree:
    """Array by array, a + b."""
    return jax.tree.map(jnp.add, a, b)


def make_update(
    loss_function: LossFunction,
    optimizer: optax.GradientTransformation,
    *,
    schedule: optax.Schedule,
    state: TrainState,
    bias_rate: float = 0.001,
    add_metrics: Callable[[Tree, Tree], Tree] = add_trees,
) -> Update:
    """Makes the jitted functions of an update.

    Args:
      loss_function: (params, buffers, microbatch) -> (loss, metrics): a scalar and a dict of arrays, all of them sums
        that add up over micro-batches.
      optimizer, schedule: from `make_optimizer`.
      state: a train state, or ShapeDtypeStructs with shardings, which alone are taken from it with the shapes. What of
        "opt_state" is in the host's memory (`r1jax.training.offload`) stays there.
      bias_rate: gamma of the router bias (V3 Sec. 2.1.2; 0.001 in V3 Sec. 4.2).
      add_metrics: joins the metrics of two micro-batches; zeros must be neutral.

    Returns an Update of
      zeros(microbatch) -> (grads_sum, metrics_sum): where an accumulation starts. Allocates; runs no loss.
      accumulate(params, buffers, grads_sum, metrics_sum, microbatch) -> (grads_sum, metrics_sum). The sums given are
        consumed. metrics_sum gains the loss as "loss".
      apply(state, grads_sum, expert_counts=None) -> (state, info). The state given is consumed. expert_counts is the
        number of tokens routed to each expert over the whole batch, [L, E] for every array of state["buffers"] (the
        array itself where there is one, as `Model.hidden` gives it); None leaves the buffers. info holds scalars:
        grad_norm (before clipping), update_norm, param_norm (after the update), learning_rate, finite, and with counts
        moe/load/moe_00, moe/load/mtp_00, ... (the fullest expert's load over its layer's mean, of every MoE layer of
        every stack) and moe/load_max_over_mean (of the worst layer). Where the gradient or the update is not finite,
        the state comes back bit for bit and finite is False.
    """
    shardings = jax.tree.map(lambda array: array.sharding, {key: state[key] for key in _UPDATED})
    replicated = _replicated(state["params"])
    sums_shardings = (shardings["params"], replicated)
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), {key: state[key] for key in _UPDATED})

    def loss_and_metrics(params: Tree, buffers: Tree, microbatch: Tree) -> tuple[jax.Array, dict[str, Any]]:
        loss, metrics = loss_function(params, buffers, microbatch)
        return loss, {**metrics, "loss": loss}

    def zeros(microbatch: Tree) -> tuple[Tree, dict[str, Any]]:
        _, metrics = jax.eval_shape(loss_and_metrics, abstract["params"], abstract["buffers"], microbatch)
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (abstract["params"], metrics))

    def accumulate(params, buffers, grads_sum, metrics_sum, microbatch):
        (_, metrics), grads = jax.value_and_grad(loss_and_metrics, has_aux=True)(params, buffers, microbatch)
        return add_trees(grads_sum, grads), add_metrics(metrics_sum, metrics)

    def apply(state: TrainState, grads: Tree, expert_counts: Tree | None):
        state = {**state, "opt_state": offload.to_device_memory(state["opt_state"], shardings["opt_state"])}
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        grad_norm, update_norm = optax.tree.norm(grads), optax.tree.norm(updates)
        finite = jnp.isfinite(grad_norm) & jnp.isfinite(update_norm)
        buffers = state["buffers"]
        if expert_counts is not None:
            biases, treedef = jax.tree.flatten(buffers)
            counts = jax.tree.leaves(expert_counts)
            shapes, theirs = [a.shape for a in biases], [a.shape for a in counts]
            if shapes != theirs:
                raise ValueError(f"expert counts of shapes {theirs}, router biases of shapes {shapes}")
            pairs = zip(biases, counts, strict=True)
            buffers = treedef.unflatten(balance_bias(bias, count, rate=bias_rate) for bias, count in pairs)
        new = {
            "step": state["step"] + 1,
            "params": optax.apply_updates(state["params"], updates),
            "opt_state": opt_state,
            "buffers": buffers,
        }
        new = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
        info = {
            "grad_norm": grad_norm,
            "update_norm": update_norm,
            "param_norm": optax.tree.norm(new["params"]),
            "learning_rate": jnp.asarray(schedule(state["step"]), jnp.float32),
            "finite": finite,
        }
        if expert_counts is not None and (loads := _loads(expert_counts)):
            info |= loads | {"moe/load_max_over_mean": jnp.max(jnp.stack([*loads.values()]))}
        return new, info

    jitted_apply = members.jit(apply, rank=2, donated=("state",), out_shardings=(shardings, replicated))

    def apply_all(state: TrainState, grads_sum: Tree, expert_counts: Tree | None = None):
        updated, info = jitted_apply({key: state[key] for key in _UPDATED}, grads_sum, expert_counts)
        return {**state, **updated}, info

    return Update(
        zeros=members.jit(zeros, rank=2, out_shardings=sums_shardings),
        accumulate=members.jit(accumulate, donated=("grads_sum", "metrics_sum"), out_shardings=sums_shardings),
        apply=apply_all,
    )


def update_once(
    state: TrainState, update: Update, microbatches: Sequence[Tree]
) -> tuple[TrainState, dict[str, Any], dict[str, jax.Array]]:
    """One update over the micro-batches of a batch: (state, metric sums, info); see `make_update`.

    The loss's metrics must have "expert_counts", which the router bias is updated by; they are not among the sums
    returned. The state given is consumed.
    """
    grads, sums = update.zeros(microbatches[0])
    for microbatch in microbatches:
        grads, sums = update.accumulate(state["params"], state["buffers"], grads, sums, microbatch)
    state, info = update.apply(state, grads, sums.pop("expert_counts"))
    return state, sums, info


def balance_bias(bias_LE: jax.Array, counts_LE: jax.Array, *, rate: float) -> jax.Array:
    """Router bias after a step: up by `rate` where an expert had less than its layer's mean, down where more.

    b_i + rate * sign(mean - count_i), each MoE layer by itself, counts over the whole global batch
    (V3 Sec. 2.1.2; arXiv 2408.15664 Alg. 1). An expert at the mean, and a layer that saw no token, stays.
    """
    counts_LE = counts_LE.astype(jnp.float32)
    return bias_LE + rate * jnp.sign(jnp.mean(counts_LE, axis=-1, keepdims=True) - counts_LE).astype(bias_LE.dtype)


def _loads(expert_counts: Tree) -> dict[str, jax.Array]:
    """Load of the fullest expert over its layer's mean, by layer; 1 is even, 0 of a layer that saw no token."""
    loads = {}
    for path, counts_LE in jax.tree_util.tree_leaves_with_path(expert_counts):
        counts_LE = counts_LE.astype(jnp.float32)
        loads_L = counts_LE.max(-1) / jnp.maximum(counts_LE.mean(-1), 1e-9)
        stack = path[0].key if path else "moe"
        loads |= {f"moe/load/{stack}_{layer:02d}": load for layer, load in enumerate(loads_L)}
    return loads


def _replicated(params: Tree) -> jax.sharding.Sharding:
    """A sharding that puts whole arrays on every device of the parameters' mesh."""
    sharding = jax.tree.leaves(params)[0].sharding
    return NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else sharding
