"""What decode over a paged cache has in common, whatever is cached.

A layer's cache is a pool of W pages of S tokens each. Token t of sequence b is in slot t % S of page
``page_table_BI[b, t // S]``; the pages of a sequence are in any order and anywhere in the pool. ``lengths_B`` counts the
tokens of each sequence; the T queries of a call are the last of them. Entries of the table past a sequence's last page may be
any page of the pool, slots past its length any finite numbers.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from r1jax.kernels import hardware, tpu_kernel
from r1jax.kernels.flash_attention.reference import MASKED
from r1jax.kernels.tpu_kernel import DTYPES, LANES, SMEM_TABLE_BYTES, dot

STEP_BYTES = 2**20
"""Pages a grid step hold about so much: starting a step takes some 0.35 µs, reading 1 MiB 0.3 to 1.3 µs."""
MAX_PAGES = 8


def write_tokens(pool, new, *, slot_dim: int, page_table_BI, start_B, counts_B=None) -> jax.Array:
    """``pool`` [W, ...], whose dim ``slot_dim`` is S, with ``new`` [B, T, ...] as the tokens at positions start_B[b] .. + T − 1.

    Left out are sequences whose ``start_B`` is negative, tokens past the end of the table, and those past the first
    ``counts_B`` of their sequence. Sequences do not write to one page.

    Pages are read, changed and written back as wholes: the pool is indexed by page alone, so that it keeps the layout that the
    kernels read. Scattered by slots, XLA lays it out for the scatter, and copies all of it for the kernel in every step.
    """
    num_pages, page_size, num_tokens = pool.shape[0], pool.shape[slot_dim], new.shape[1]
    num_touched = (num_tokens + page_size - 2) // page_size + 1
    entry_BE = start_B[:, None] // page_size + jnp.arange(num_touched)
    token_BES = entry_BE[:, :, None] * page_size + jnp.arange(page_size) - start_B[:, None, None]
    is_new_BES = (token_BES >= 0) & (token_BES < (num_tokens if counts_B is None else counts_B[:, None, None]))
    is_new_BES &= (start_B[:, None] >= 0)[..., None] & (entry_BE < page_table_BI.shape[1])[..., None]
    page_BE = jnp.take_along_axis(page_table_BI, jnp.clip(entry_BE, 0, page_table_BI.shape[1] - 1), axis=1)

    def in_pages(array_BESX):
        return jnp.moveaxis(array_BESX, 2, slot_dim + 1)

    rest = (1,) * (new.ndim - 2)
    if num_tokens == 1:
        new_BESX = new[:, :, None]
    else:
        token_BXS = jnp.clip(token_BES, 0, num_tokens - 1).reshape(len(new), -1, *rest)
        new_BESX = jnp.take_along_axis(new, token_BXS, axis=1).reshape(*token_BES.shape, *new.shape[2:])
    changed = jnp.where(in_pages(is_new_BES.reshape(*is_new_BES.shape, *rest)), in_pages(new_BESX), pool[page_BE])
    target_BE = jnp.where(is_new_BES.any(-1), page_BE, num_pages)  # which is dropped
    return pool.at[target_BE].set(changed.astype(pool.dtype), mode="drop")


def decode_mask(lengths_B, *, num_queries: int, num_keys: int) -> jax.Array:
    """[B, T, keys]: each query sees itself and what is before it."""
    last_BT = lengths_B[:, None] - num_queries + jnp.arange(num_queries)
    return jnp.arange(num_keys) <= last_BT[:, :, None]


def check(operation: str, *, dtypes: list, widths: dict[str, int], page_size: int, batch: int, table, lengths) -> None:
    """ValueError unless the kernel supports the arrays; ``widths`` are its head sizes by name."""
    if len({str(dtype) for dtype in dtypes}) > 1 or str(dtypes[0]) not in DTYPES:
        raise ValueError(f"{operation}: pallas_tpu takes arrays of one type, {' or '.join(DTYPES)}, not {dtypes}")
    for name, width in widths.items():
        if width % 8:
            raise ValueError(f"{operation}: pallas_tpu supports {name} in multiples of 8, not {width}")
    if page_size % LANES:
        raise ValueError(f"{operation}: pallas_tpu supports pages of a multiple of {LANES} tokens, not {page_size}")
    if table.shape[0] != batch or lengths.shape != (batch,) or {str(table.dtype), str(lengths.dtype)} != {"int32"}:
        raise ValueError(
            f"{operation}: pallas_tpu takes int32 page_table_BI [{batch}, pages] and lengths_B [{batch}], not "
            f"{table.dtype}{list(table.shape)} and {lengths.dtype}{list(lengths.shape)}"
        )
    if 4 * table.size > SMEM_TABLE_BYTES:
        raise ValueError(
            f"{operation}: a page table of {table.shape[0]} x {table.shape[1]} entries for at most {SMEM_TABLE_BYTES // 4}; "
            "use longer pages or fewer sequences a call"
        )


def pages_per_step(page_bytes: int, pages_per_sequence: int) -> int:
    """Pages that one grid step reads and works on."""
    return max(1, min(MAX_PAGES, pages_per_sequence, -(-STEP_BYTES // page_bytes)))


def page_specs(block: tuple, *, count: int, page_size: int, pages_per_sequence: int) -> list[pl.BlockSpec]:
    """Block specs of the ``count`` pages of a step for a pool whose pages are ``block``; the table is prefetched, flat.

    Grid (sequences, steps). A page past the end repeats the one that this operand held before, which is no read.
    """

    def spec(j: int):
        def index_map(b, step, table, lengths):
            last_page = jnp.maximum(pl.cdiv(lengths[b], page_size) - 1, 0)
            last_step = jnp.maximum(last_page - j, 0) // count
            entry = jnp.minimum(jnp.minimum(step, last_step) * count + j, last_page)
            return (table[b * pages_per_sequence + entry], *(0 for _ in block))

        return pl.BlockSpec((None, *block), index_map)

    return [spec(j) for j in range(count)]


def visible(length, *, first_key, num_keys: int, num_queries: int, rows: int):
    """[rows, num_keys] mask of a page whose first token is ``first_key``; rows / T rows in order for each of the T queries."""
    row = jax.lax.broadcasted_iota(jnp.int32, (rows, num_keys), 0)
    key = first_key + jax.lax.broadcasted_iota(jnp.int32, (rows, num_keys), 1)
    query = sum(((row >= t * (rows // num_queries)).astype(jnp.int32) for t in range(1, num_queries)), 0)
    return key <= length - num_queries + query


def start_softmax(sum_ref, highest_ref, total_ref) -> None:
    """Nothing seen yet."""
    sum_ref[...] = jnp.zeros_like(sum_ref)
    total_ref[...] = jnp.zeros_like(total_ref)
    highest_ref[...] = jnp.full_like(highest_ref, MASKED)


def add_pages(scores: list, masks: list, values: list, sum_ref, highest_ref, total_ref) -> None:
    """Online softmax: the pages' scores, [rows, S] each, and values, [S, width] each, into the running sums of the rows."""
    scores = [jnp.where(mask, s, MASKED) for s, mask in zip(scores, masks, strict=True)]
    before = highest_ref[:, :1]
    highest = before
    for s in scores:
        highest = jnp.maximum(highest, s.max(-1, keepdims=True))
    shrink = jnp.exp(before - highest)
    total, summed = shrink * total_ref[:, :1], shrink * sum_ref[...]
    for s, mask, value in zip(scores, masks, values, strict=True):
        weights = jnp.where(mask, jnp.exp(s - highest), 0.0)
        total += weights.sum(-1, keepdims=True)
        summed += dot(weights.astype(value.dtype), value)
    sum_ref[...] = summed
    highest_ref[...] = jnp.broadcast_to(highest, highest_ref.shape)
    total_ref[...] = jnp.broadcast_to(total, total_ref.shape)


def finish_softmax(sum_ref, total_ref):
    """The weighted mean of the values; 0 for a row that saw nothing."""
    total = total_ref[:, :1]
    return sum_ref[...] / jnp.where(total > 0, total, 1.0)


def compiler_params() -> pltpu.CompilerParams:
    """Sequences in any order, the steps of one in order; half of VMEM."""
    return tpu_kernel.compiler_params(hardware.generation(), "parallel", "arbitrary", vmem=1 / 2)
