"""Routed experts as one batched matmul over blocks of rows, in plain XLA.

1. Sort the T·K routed rows by expert and give each expert whole blocks of ``rows_per_block`` slots (the last one padded).
   At most T·K / rows_per_block + E blocks are needed, a static number, so no row is ever dropped.
2. Gather rows into slots and each block's expert weights; three batched matmuls.
3. Gather each row's result back and sum over its K experts.

Rows and slots are a bijection, so the transpose of every gather is a gather too, and that of step 2's gather of weights
a small matmul: ``_permute`` and ``_of_blocks`` say so to autodiff, which would otherwise emit scatter-adds (serial loops
on XLA's CPU). ``jax.lax.ragged_dot`` is an order of magnitude slower there.
"""

import jax
import jax.numpy as jnp


def expert_ffn(x_TD, experts_TK, weights_TK, w_gate_EDF, w_up_EDF, w_down_EFD):
    """See ``r1jax.kernels.grouped_matmul.expert_ffn``."""
    num_tokens, num_chosen = experts_TK.shape
    num_experts = w_gate_EDF.shape[0]
    rows_per_block = _rows_per_block(num_tokens * num_chosen, num_experts)
    slot_TK, row_of_slot, expert_of_block = _layout(experts_TK.reshape(-1), num_experts, rows_per_block)
    slot_TK = slot_TK.reshape(num_tokens, num_chosen)
    token_of_slot = jnp.where(row_of_slot < num_tokens * num_chosen, row_of_slot // num_chosen, num_tokens)

    x_SD = _permute(x_TD, token_of_slot, slot_TK)
    x_nbD = x_SD.reshape(-1, rows_per_block, x_TD.shape[1])
    dtype = x_TD.dtype

    def batched(rows, w):
        blocks = _of_blocks(w.astype(dtype), expert_of_block)
        return jnp.einsum("nbi,nio->nbo", rows, blocks, preferred_element_type=jnp.float32).astype(dtype)

    hidden_nbF = jax.nn.silu(batched(x_nbD, w_gate_EDF)) * batched(x_nbD, w_up_EDF)
    y_SD = batched(hidden_nbF, w_down_EFD).reshape(x_SD.shape)
    y_TKD = _permute(y_SD, slot_TK.reshape(-1), row_of_slot[:, None]).reshape(num_tokens, num_chosen, -1)
    return jnp.einsum("tkd,tk->td", y_TKD, weights_TK.astype(dtype), preferred_element_type=jnp.float32).astype(dtype)


def _rows_per_block(num_rows: int, num_experts: int) -> int:
    """A power of two near the mean load, so that padding costs at most about as much again for few rows."""
    mean = max(num_rows // num_experts, 1)
    return min(max(1 << (mean.bit_length() - 1), 8), 128)


def _layout(experts_X: jax.Array, num_experts: int, rows_per_block: int):
    """(slot of each row [X], row of each slot [S] or X where the slot is padding, expert of each block [S/rows_per_block])."""
    num_rows = experts_X.shape[0]
    num_blocks = -(-num_rows // rows_per_block) + num_experts
    order_X = jnp.argsort(experts_X, stable=True)
    sorted_experts_X = experts_X[order_X]
    counts_E = jnp.bincount(experts_X, length=num_experts)
    blocks_E = -(-counts_E // rows_per_block)
    last_block_E = jnp.cumsum(blocks_E)
    first_slot_E = (last_block_E - blocks_E) * rows_per_block
    first_row_E = jnp.cumsum(counts_E) - counts_E
    slot_of_sorted = first_slot_E[sorted_experts_X] + jnp.arange(num_rows) - first_row_E[sorted_experts_X]
    slot_X = jnp.zeros((num_rows,), jnp.int32).at[order_X].set(slot_of_sorted.astype(jnp.int32), unique_indices=True)
    row_of_slot = jnp.full((num_blocks * rows_per_block,), num_rows, jnp.int32)
    row_of_slot = row_of_slot.at[slot_of_sorted].set(order_X.astype(jnp.int32), unique_indices=True)
    expert_of_block = jnp.searchsorted(last_block_E, jnp.arange(num_blocks), side="right")
    return slot_X, row_of_slot, jnp.minimum(expert_of_block, num_experts - 1)


@jax.custom_vjp
def _permute(x_ID: jax.Array, source_O: jax.Array, targets_IC: jax.Array) -> jax.Array:
    """out[o] = x[source[o]], zero where source is I; ``targets`` lists the C outputs that read each input."""
    return x_ID.at[source_O].get(mode="fill", fill_value=0)


def _permute_fwd(x_ID, source_O, targets_IC):
    return _permute(x_ID, source_O, targets_IC), targets_IC


def _permute_bwd(targets_IC, dout_OD):
    return dout_OD.at[targets_IC].get(mode="fill", fill_value=0).sum(axis=1), None, None


_permute.defvjp(_permute_fwd, _permute_bwd)


@jax.custom_vjp
def _of_blocks(w_EIO: jax.Array, expert_of_block: jax.Array) -> jax.Array:
    """The weights of each block's expert, [n, I, O]."""
    return w_EIO[expert_of_block]


def _of_blocks_fwd(w_EIO, expert_of_block):
    return w_EIO[expert_of_block], (expert_of_block, w_EIO.shape)


def _of_blocks_bwd(residuals, dblocks_nIO):
    expert_of_block, shape = residuals
    pick_En = jax.nn.one_hot(expert_of_block, shape[0], axis=0, dtype=dblocks_nIO.dtype)
    dw = jnp.matmul(pick_En, dblocks_nIO.reshape(dblocks_nIO.shape[0], -1), preferred_element_type=jnp.float32)
    return dw.reshape(shape).astype(dblocks_nIO.dtype), None


_of_blocks.defvjp(_of_blocks_fwd, _of_blocks_bwd)
