"""Metrics of a loss as sums over tokens: micro-batches add them up, and one division at the end makes the means."""

from typing import Any

import jax
import jax.numpy as jnp

Metrics = dict[str, Any]


def add_metrics(a: Metrics, b: Metrics) -> Metrics:
    """Joins the metrics of two micro-batches: sums add, whatever is under a key "max" takes the larger.

    The dicts may be nested and must have one structure. Zeros are neutral, since every maximum here is at least 0.
    """

    def join(path: tuple[Any, ...], x: jax.Array, y: jax.Array) -> jax.Array:
        is_maximum = any(getattr(entry, "key", None) == "max" for entry in path)
        return jnp.maximum(x, y) if is_maximum else x + y

    return jax.tree.map_with_path(join, a, b)


def mean_metrics(metrics: Metrics) -> Metrics:
    """Divides the sums by "num_tokens" once, at the end, and lifts the entries of "max" to the top level.

    "num_tokens" stays, and so does "loss" if it is there: it is the batch's already. No tokens give zeros.
    """
    kept = {name: metrics[name] for name in ("num_tokens", "loss") if name in metrics}
    sums = {name: value for name, value in metrics.items() if name not in kept and name != "max"}
    num_tokens = jnp.maximum(metrics["num_tokens"], 1)
    return {**{name: value / num_tokens for name, value in sums.items()}, **metrics["max"], **kept}
