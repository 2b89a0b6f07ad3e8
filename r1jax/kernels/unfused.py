"""What the kernels are compared with: the same operations step by step, modelled for the table of ``r1jax.bench kernels``."""

import dataclasses

import jax.numpy as jnp
from jax.experimental import pallas as pl

from r1jax.kernels.flash_attention import shapes as flash
from r1jax.kernels.grouped_matmul import shapes as grouped
from r1jax.kernels.paged_decode import shapes as paged
from r1jax.kernels.route import shapes as route
from r1jax.kernels.token_logprob import shapes as logprob


def unfused_bytes(shape, generation: str, *, backward: bool = False) -> int | None:
    """HBM bytes of a kernel's pass, ``shape`` being one of its ``Shape``, if each step reads its arrays and writes its result.

    None where that is not modelled (attention backward). Attention writes every square of scores in float32, reads it for the
    softmax, writes the weights in the arrays' type and reads them for the second product.
    """
    match shape:
        case flash.Shape() if not backward:
            size = jnp.dtype(shape.dtype).itemsize
            q_row = shape.heads * (shape.head_dim + shape.rope_dim + shape.value_dim)
            k_row = shape.kv_heads * (shape.head_dim + shape.value_dim) + shape.rope_dim
            square = shape.heads * shape.queries * shape.keys
            return shape.batch * (square * (8 + 2 * size) + (shape.queries * q_row + shape.keys * k_row) * size)
        case paged.Shape():
            # The pages are gathered into one array, and that is read as keys and as values.
            rows, keys = shape.queries * shape.heads, shape.pages_per_sequence * shape.page_size
            gathered = 2 * shape.pages_per_sequence * shape.page_numbers + keys * shape.kv_heads * shape.row_dim
            square = rows * keys * (8 + 2 * shape.itemsize)
            return shape.batch * (square + (gathered + rows * shape.row_dim) * shape.itemsize)
        case route.Shape():
            # Seven passes over [X, E] (scores twice; selection and the masked one written once, read for the groups' best, for
            # the mask and for top-k), groups and results, one read and write of the sort's keys and values: a lower bound.
            scores, routed = shape.tokens * shape.experts, shape.tokens * shape.chosen
            passes = 7 if shape.groups > 1 else 4
            return 4 * (passes * scores + 2 * shape.tokens * shape.groups + 6 * routed)
        case grouped.Shape():
            # Every product is a grouped matmul with blocks chosen in the same way; SwiGLU and its gradient, and the sum of the two
            # products of dx, read and write arrays [R, F] and [R, D].
            first, second = grouped.Rows("", shape, shape.dim, shape.ffn), grouped.Rows("", shape, shape.ffn, shape.dim)
            calls, elementwise = [first, first, second], 3 * shape.rows * shape.ffn
            if backward:
                of_w, of_down = (grouped.Sums("", shape, call.contracted, call.columns) for call in (first, second))
                calls = [first, second, second, of_w, of_w, of_down]
                elementwise = shape.rows * (6 * shape.ffn + 3 * shape.dim)
            return grouped.cost(calls, generation).bytes_accessed + elementwise * shape.itemsize
        case logprob.Shape():
            # Forward writes the logits in float32 and reads them for the maximum, the sum and the entropy. Backward reads them and
            # writes their gradient in the rows' type for two products. That moves fewer bytes backward than the kernel does, which
            # adds to the weights' gradient once a call; but the kernel is bound by FLOPs, and 4·X·V bytes need not exist.
            rows, vocab, dim, size = dataclasses.astuple(shape)
            logits = rows * vocab
            if not backward:
                return 3 * 4 * logits + _matmul_bytes(rows, vocab, dim, size)
            products = _matmul_bytes(rows, dim, vocab, size) + _matmul_bytes(vocab, dim, rows, size)
            return logits * (4 + size) + products
    return None


def _matmul_bytes(rows: int, columns: int, depth: int, itemsize: int, block: int = 1024) -> int:
    """A matmul in blocks of 1024 × 1024 results."""
    reads = rows * pl.cdiv(columns, block) + columns * pl.cdiv(rows, block)
    return reads * depth * itemsize + 4 * rows * columns
