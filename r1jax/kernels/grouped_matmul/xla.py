"""Routed experts as a loop over experts and, within one, over its blocks of rows, in plain XLA: the path of a CPU.

1. Give each expert, in the order of the sorted rows, whole blocks of slots (the last one padded). At most T·K / rows +
   E blocks are needed, a static number, so no row is ever dropped; only the blocks that are used are computed.
2. An expert's weights are sliced once, gate and up side by side; each block of its rows is three plain 2-D matmuls. The
   backward pass keeps gate·x and up·x and sums a weight's gradient over the expert's blocks before it is stored.
3. Gather each row's result back and sum over its K experts.

Rows and slots are a bijection, so the transpose of every gather is a gather too: ``permute`` says so to autodiff, which
would otherwise emit scatter-adds (serial loops on XLA's CPU). ``jax.lax.ragged_dot`` is an order of magnitude slower
there, and one batched matmul over gathered weights 1.3 times. Weights are rounded to x's type, as everywhere, but
matmuls run in float32 whatever it is: inside loops XLA's CPU has no fast bfloat16 one.
"""

import jax
import jax.numpy as jnp

from r1jax.kernels.dispatch import with_gradient
from r1jax.kernels.grouped_matmul.reference import at_places
from r1jax.kernels.route import Permutation


def expert_ffn(x_TD, experts_TK, weights_TK, expert_weights, *, order: Permutation):
    """See ``r1jax.kernels.grouped_matmul.expert_ffn``."""
    rows_per_block = _rows_per_block(experts_TK.size, len(expert_weights[0]))
    slot_TK, row_of_slot, blocks_E = _layout(order, rows_per_block)
    weights = [w.astype(x_TD.dtype).astype(jnp.float32) for w in expert_weights]

    def through_experts(x_SD):
        return _experts(x_SD.reshape(-1, rows_per_block, x_SD.shape[1]), *weights, blocks_E).reshape(x_SD.shape)

    return at_places(through_experts, x_TD, weights_TK, row_of_place=row_of_slot, place_TK=slot_TK)


def _experts_fwd(x_nbD, w_gate_EDF, w_up_EDF, w_down_EFD, blocks_E):
    """Each block of rows through the SwiGLU of its expert; expert e has the next blocks_E[e] blocks."""
    last_E = jnp.cumsum(blocks_E)

    def expert(e, arrays):
        w_DH, w_FD = _side_by_side(w_gate_EDF[e], w_up_EDF[e]), w_down_EFD[e]

        def block(i, arrays):
            y_nbD, both_nbH = arrays
            both_bH = _matmul(x_nbD[i], w_DH)
            gate_bF, up_bF = jnp.split(both_bH, 2, axis=-1)
            y_bD = _matmul(jax.nn.silu(gate_bF) * up_bF, w_FD)
            return y_nbD.at[i].set(y_bD.astype(y_nbD.dtype)), both_nbH.at[i].set(both_bH.astype(both_nbH.dtype))

        return jax.lax.fori_loop(last_E[e] - blocks_E[e], last_E[e], block, arrays)

    both_nbH = jnp.zeros((*x_nbD.shape[:2], 2 * w_gate_EDF.shape[2]), x_nbD.dtype)
    y_nbD, both_nbH = jax.lax.fori_loop(0, len(blocks_E), expert, (jnp.zeros_like(x_nbD), both_nbH))
    return y_nbD, (x_nbD, w_gate_EDF, w_up_EDF, w_down_EFD, blocks_E, both_nbH)


def _experts_bwd(residuals, dy_nbD):
    x_nbD, w_gate_EDF, w_up_EDF, w_down_EFD, blocks_E, both_nbH = residuals
    last_E = jnp.cumsum(blocks_E)

    def expert(e, arrays):
        dx_nbD, *dweights = arrays
        w_DH, w_FD = _side_by_side(w_gate_EDF[e], w_up_EDF[e]), w_down_EFD[e]

        def block(i, arrays):
            dx_nbD, dw_DH, dw_FD = arrays
            gate_bF, up_bF = jnp.split(both_nbH[i].astype(jnp.float32), 2, axis=-1)
            sigmoid_bF = jax.nn.sigmoid(gate_bF)
            silu_bF = gate_bF * sigmoid_bF
            dhidden_bF = _matmul(dy_nbD[i], w_FD.T)
            dgate_bF = dhidden_bF * up_bF * (sigmoid_bF + silu_bF * (1 - sigmoid_bF))
            dboth_bH = _side_by_side(dgate_bF, dhidden_bF * silu_bF)
            dx_bD = _matmul(dboth_bH, w_DH.T)
            dw_DH, dw_FD = dw_DH + _matmul(x_nbD[i].T, dboth_bH), dw_FD + _matmul((silu_bF * up_bF).T, dy_nbD[i])
            return dx_nbD.at[i].set(dx_bD.astype(dx_nbD.dtype)), dw_DH, dw_FD

        zeros = dx_nbD, jnp.zeros_like(w_DH), jnp.zeros_like(w_FD)
        dx_nbD, dw_DH, dw_FD = jax.lax.fori_loop(last_E[e] - blocks_E[e], last_E[e], block, zeros)
        sums = (*jnp.split(dw_DH, 2, axis=-1), dw_FD)
        return dx_nbD, *(dweight.at[e].set(dw) for dweight, dw in zip(dweights, sums, strict=True))

    zeros = tuple(jnp.zeros_like(a) for a in (x_nbD, w_gate_EDF, w_up_EDF, w_down_EFD))
    return *jax.lax.fori_loop(0, len(blocks_E), expert, zeros), None


_experts = with_gradient(_experts_fwd, _experts_bwd)


def _side_by_side(first, second):
    return jnp.concatenate([first, second], axis=-1)


def _matmul(a, b):
    return jnp.matmul(a.astype(jnp.float32), b.astype(jnp.float32))


def _rows_per_block(num_rows: int, num_experts: int) -> int:
    """A power of two in [8, 128], at most half the mean load where that is 16 or more: a quarter more slots than rows."""
    mean = max(num_rows // num_experts, 1)
    return min(max(1 << (mean.bit_length() - 2), 8), 128) if mean > 1 else 8


def _layout(order: Permutation, rows_per_block: int):
    """(slot of each row [T, K], row of each slot [S] or T·K where the slot is padding, blocks of each expert [E])."""
    num_rows, starts_E, counts_E = len(order.row_of_place), order.offsets[:-1], jnp.diff(order.offsets)
    blocks_E = -(-counts_E // rows_per_block)
    padding_E = (jnp.cumsum(blocks_E) - blocks_E) * rows_per_block - starts_E
    slot_of_place = jnp.arange(num_rows) + jnp.repeat(padding_E, counts_E, total_repeat_length=num_rows)
    num_slots = (-(-num_rows // rows_per_block) + len(counts_E)) * rows_per_block
    row_of_slot = jnp.full((num_slots,), num_rows, jnp.int32)
    row_of_slot = row_of_slot.at[slot_of_place].set(order.row_of_place, unique_indices=True)
    slot_XK = slot_of_place.at[order.place_XK].get(mode="fill", fill_value=num_slots)  # a row may have no place
    return slot_XK, row_of_slot, blocks_E
