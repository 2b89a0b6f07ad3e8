"""How the loss of a batch is summed up, exactly under packing and micro-batches: token weights, and metrics as sums.

Token arrays are [B, T]. A row may hold several sequences one after another: `segment_ids_BT` numbers them from 1 (gaps
are allowed, no id is above T), 0 is padding, and no sequence spans two rows.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Metrics = dict[str, Any]


def check_shapes(rank: int, **arrays: jax.Array | np.ndarray | None) -> None:
    """Raises ValueError, naming the array, unless all arrays that are not None have this rank and one shape."""
    shapes = {name: jnp.shape(array) for name, array in arrays.items() if array is not None}
    first_name, first = next(iter(shapes.items()))
    for name, shape in shapes.items():
        if len(shape) != rank:
            raise ValueError(f"{name} must have {rank} dims, got shape {shape}")
        if shape != first:
            raise ValueError(f"{name} has shape {shape}, {first_name} has {first}")


def segment_sum(values_BT: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
    """The sum of the values over each token's own sequence, at every one of its tokens: [B, T] -> [B, T].

    Padding gets the sum over the row's padding. Rows stay apart, so the rows may be sharded.
    """
    num_buckets = values_BT.shape[1] + 1  # a row of T tokens has at most T sequences, and padding
    sum_rows = jax.vmap(lambda values_T, ids_T: jax.ops.segment_sum(values_T, ids_T, num_segments=num_buckets)[ids_T])
    return sum_rows(values_BT, segment_ids_BT)


def token_weights(
    mask_BT: jax.Array,
    segment_ids_BT: jax.Array,
    *,
    aggregation: str,
    num_sequences: jax.Array | int | None = None,
    num_tokens: jax.Array | int | None = None,
    constant: float | None = None,
) -> jax.Array:
    """Weights w such that the loss of a batch is the plain sum of w x token loss over *all* its micro-batches.

    Args:
      mask_BT: non-zero where a token counts: generated tokens including the end token where one was produced, never
        prompt or padding. To leave truncated outputs out (overlong filtering), put 0 at all of their tokens.
      aggregation: over the N = `num_sequences` sequences o_i of the batch,
        "sequence": 1 / (N |o_i|), mean of each sequence, then of sequences (DSM Eq. 3; R1's mini-batch mean);
        "token": 1 / `num_tokens`, every token alike (DAPO Eq. 8, over the batch and not per question);
        "constant": 1 / (N `constant`), no length bias (Dr. GRPO Sec. 3.2; the constant is its token budget).
      num_sequences, num_tokens: counts over the whole batch, so that micro-batches, order and packing do not change the
        loss. Sequences that the mask drops entirely should not be among them.

    Returns float32 [B, T], 0 outside the mask; all 0 when the counts are 0. Raises ValueError for an unknown
    aggregation or a missing count.
    """
    check_shapes(2, mask_BT=mask_BT, segment_ids_BT=segment_ids_BT)
    needs = {
        "sequence": {"num_sequences": num_sequences},
        "token": {"num_tokens": num_tokens},
        "constant": {"num_sequences": num_sequences, "constant": constant},
    }
    if aggregation not in needs:
        raise ValueError(f"aggregation must be one of {sorted(needs)}, got {aggregation!r}")
    denominator = jnp.float32(1.0)
    for name, value in needs[aggregation].items():
        if value is None:
            raise ValueError(f"aggregation {aggregation!r} needs {name}")
        denominator = denominator * jnp.maximum(value, 1)  # an empty batch weighs nothing instead of dividing by 0
    counted_BT = ((mask_BT != 0) & (segment_ids_BT != 0)).astype(jnp.float32)
    if aggregation == "sequence":
        denominator = denominator * jnp.maximum(segment_sum(counted_BT, segment_ids_BT), 1.0)
    return counted_BT / denominator


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
