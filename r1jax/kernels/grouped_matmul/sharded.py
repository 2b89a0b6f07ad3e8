"""The TPU kernel on a mesh: tokens, experts and the experts' width are split, by a role's rules of "batch", "experts" and "mlp".

Devices that hold different experts give each other their tokens (all-gather over those axes). Each sorts the routed rows,
runs those of its own experts, and gets the sum of what all of them computed for its tokens back (reduce-scatter). No row is
dropped and no size depends on the data; the price is memory, since all rows might be of one device's experts: what holds routed
rows is as many times larger as the axis has devices. With a width that is split too, the sums are over that axis as well.

Weights whose model dim is split ("embed") are put together for the matmul, in the type of the rows; their gradients are summed
and split again by the same step backwards.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from r1jax.kernels import shards
from r1jax.kernels.grouped_matmul import pallas_tpu
from r1jax.kernels.grouped_matmul.permute import at_places
from r1jax.kernels.route import Permutation, permutation
from r1jax.sharding import Role


def expert_ffn(
    x_TD, experts_TK, weights_TK, w_gate_EDF, w_up_EDF, w_down_EFD, *, order: Permutation, role: Role = "train",
    interpret=False,
):  # fmt: skip
    """See ``r1jax.kernels.grouped_matmul.expert_ffn``; the kernel itself where there is no mesh to split over.

    On a mesh ``order`` is not used: each device sorts the rows that it has.
    """
    mesh = shards.mesh_to_split()
    weights = (w_gate_EDF, w_up_EDF, w_down_EFD)
    if mesh is None:
        return pallas_tpu.expert_ffn(x_TD, experts_TK, weights_TK, *weights, order=order, interpret=interpret)
    shape = w_gate_EDF.shape
    tokens, mlp = shards.mesh_axes(("batch", "mlp"), (x_TD.shape[0], shape[2]), mesh, role=role)
    experts, embed = shards.mesh_axes(("experts", "embed"), shape[:2], mesh, role=role)
    gathered = tuple(axis for axis in experts if axis in tokens)
    summed = tuple(axis for axis in (*experts, *mlp) if axis not in gathered)

    def part(x_TD, experts_TK, weights_TK, weights):
        if gathered:
            x_TD, experts_TK, weights_TK = (
                jax.lax.all_gather(a, gathered, tiled=True) for a in (x_TD, experts_TK, weights_TK)
            )
        if embed:
            weights = [
                jax.lax.all_gather(w.astype(x_TD.dtype), embed, axis=dim, tiled=True)
                for w, dim in zip(weights, (1, 1, 2), strict=True)
            ]
        first = jax.lax.axis_index(experts) * weights[0].shape[0] if experts else 0
        own = _own(experts_TK - first, weights[0].shape[0])

        def through_experts(x_RD):
            return pallas_tpu.sorted_expert_ffn(x_RD, own.offsets, *weights, interpret=interpret)

        out_TD = at_places(through_experts, x_TD, weights_TK, row_of_place=own.row_of_place, place_TK=own.place_XK)
        if summed:
            out_TD = jax.lax.psum(out_TD, summed)
        return jax.lax.psum_scatter(out_TD, gathered, tiled=True) if gathered else out_TD

    by_token = P(tokens, None)
    up, down = P(experts, embed, mlp), P(experts, mlp, embed)
    return shards.run(
        part,
        (x_TD, experts_TK, weights_TK, weights),
        in_specs=(by_token, by_token, by_token, (up, up, down)),
        out_specs=by_token,
    )


def _own(experts_TK, num_experts: int) -> Permutation:
    """The routed rows sorted by expert, those of experts 0 to num_experts − 1 first; the others have no place."""
    is_own_TK = (experts_TK >= 0) & (experts_TK < num_experts)
    order = permutation(jnp.where(is_own_TK, experts_TK, num_experts), num_experts + 1)
    nowhere = experts_TK.size
    is_held = jnp.arange(nowhere) < order.offsets[num_experts]
    return Permutation(
        jnp.where(is_held, order.row_of_place, nowhere),
        jnp.where(is_own_TK, order.place_XK, nowhere),
        order.offsets[: num_experts + 1],
    )
