"""Routed experts on a TPU: rows sorted by expert times the weights of their expert, in blocks of rows that may span
experts.

The idea is that of MegaBlocks (Gale et al. 2022) and of JAX's megablox. Source of the operation: V3 Sec. 2.1.2 Eq. 12.

Rows are not padded to whole blocks an expert. The blocks of rows and the ranges of the experts are cut against each
other: each pair (expert, block) that meets is one *visit*, at most blocks + experts − 1 of them, in order of the rows.
Their list is computed outside, lies in scalar memory before the kernel starts, and tells the pipeline which weights and
rows to fetch; the grid ends with the last visit. A visit computes its whole block with its expert's weights and stores
the rows of its expert. The visits of a block follow one another, so the block stays in VMEM until all its rows are
stored.

``_rows``: columns of a block are the outer loop, visits the inner one, and the contracted dimension is whole. So
weights are fetched when the expert changes and no sooner: each is read from HBM once, whatever the number of blocks.
Products are summed in float32 and an elementwise function ends the visit: SwiGLU after gate and up; its gradient after
dy · downᵀ; the sum of the two products of dx.

``_sums``: gradients of weights, leftᵀ · right over the rows of an expert; the sums stay in VMEM while the expert's
visits pass. An expert without rows has one visit that finds no row of its own and stores zeros.

Backward keeps gate·x and up·x from the forward pass: 2 products there, 6 here, none twice.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec as P

from r1jax.kernels import dispatch, hardware
from r1jax.kernels.grouped_matmul.reference import at_places
from r1jax.kernels.grouped_matmul.shapes import ExpertShape
from r1jax.kernels.hardware import NN, NT, TN, compiler_params, dot
from r1jax.kernels.route import Permutation, permutation
from r1jax.sharding import Role


def expert_ffn(
    x_TD, experts_TK, weights_TK, expert_weights, *, order: Permutation, role: Role = "train", interpret=False
) -> jax.Array:
    """See ``r1jax.kernels.grouped_matmul.expert_ffn``; ``interpret`` is that of ``pl.pallas_call``.

    On a mesh tokens, experts and their width are split, by ``role``'s rules of "batch", "experts" and "mlp".

    Devices that hold different experts give each other their tokens (all-gather over those axes). Each sorts the routed
    rows that it has (``order`` is not used), runs those of its own experts, and gets the sum of what all of them
    computed for its tokens back (reduce-scatter). No row is dropped and no size depends on the data; the price is
    memory, since all rows might be of one device's experts: what holds routed rows is as many times larger as the axis
    has devices. With a width that is split too, the sums are over that axis as well.

    Weights whose model dim is split ("embed") are put together for the matmul, in the type of the rows; their gradients
    are summed and split again by the same step backwards.
    """

    def in_order(x_TD, weights_TK, expert_weights, order: Permutation):
        def through_experts(x_RD):
            return sorted_expert_ffn(x_RD, order.offsets, expert_weights, interpret=interpret)

        return at_places(through_experts, x_TD, weights_TK, row_of_place=order.row_of_place, place_TK=order.place_XK)

    if dispatch.mesh_to_split() is None:
        return in_order(x_TD, weights_TK, expert_weights, order)
    shape = expert_weights[0].shape
    tokens, mlp = dispatch.mesh_axes(("batch", "mlp"), (x_TD.shape[0], shape[2]), role=role)
    experts, embed = dispatch.mesh_axes(("experts", "embed"), shape[:2], role=role)
    gathered = tuple(axis for axis in experts if axis in tokens)
    summed = tuple(axis for axis in (*experts, *mlp) if axis not in gathered)

    def part(*arrays):
        *by_token, weights = arrays
        if gathered:
            by_token = [jax.lax.all_gather(a, gathered, tiled=True) for a in by_token]
        x_TD, experts_TK, weights_TK = by_token
        if embed:
            weights = [
                jax.lax.all_gather(w.astype(x_TD.dtype), embed, axis=dim, tiled=True)
                for w, dim in zip(weights, (1, 1, 2), strict=True)
            ]
        first = jax.lax.axis_index(experts) * weights[0].shape[0] if experts else 0
        out_TD = in_order(x_TD, weights_TK, weights, _local_order(experts_TK - first, weights[0].shape[0]))
        if summed:
            out_TD = jax.lax.psum(out_TD, summed)
        return jax.lax.psum_scatter(out_TD, gathered, tiled=True) if gathered else out_TD

    by_token, up, down = P(tokens, None), P(experts, embed, mlp), P(experts, mlp, embed)
    in_specs = (by_token, by_token, by_token, (up, up, down))
    arrays = (x_TD, experts_TK, weights_TK, expert_weights)
    return dispatch.run_on_parts(part, arrays, in_specs=in_specs, out_specs=by_token)


def _local_order(experts_TK, num_experts: int) -> Permutation:
    """The routed rows sorted by expert, those of experts 0 to num_experts − 1 first; the others have no place."""
    is_local_TK = (experts_TK >= 0) & (experts_TK < num_experts)
    order = permutation(jnp.where(is_local_TK, experts_TK, num_experts), num_experts + 1)
    nowhere = experts_TK.size
    is_held = jnp.arange(nowhere) < order.offsets[num_experts]
    return Permutation(
        jnp.where(is_held, order.row_of_place, nowhere),
        jnp.where(is_local_TK, order.place_XK, nowhere),
        order.offsets[: num_experts + 1],
    )


def sorted_expert_ffn(x_RD, offsets, expert_weights, *, interpret=False):
    """Rows that lie sorted by expert through the SwiGLU of their own, [R, D]: expert e has rows offsets[e] to offsets[e
    + 1].

    Rows before offsets[0] and from offsets[E] on belong to no group: their result and their gradient are unspecified.
    """
    (num_experts, dim, ffn), dtype = expert_weights[0].shape, x_RD.dtype
    shapes, taken = [w.shape for w in expert_weights], (jnp.float32, jnp.bfloat16)
    if shapes != [(num_experts, dim, ffn)] * 2 + [(num_experts, ffn, dim)] or x_RD.shape[1] != dim:
        raise ValueError(
            f"expert_ffn: rows {x_RD.shape} and weights {shapes}; the kernel takes rows [R, D], gate and up [E, D, F], down "
            "[E, F, D]"
        )
    if dtype not in taken:
        raise ValueError(f"expert_ffn: rows are {dtype}; the kernel takes float32 and bfloat16")
    if any(w.dtype not in taken for w in expert_weights):
        types = [str(w.dtype) for w in expert_weights]
        raise ValueError(f"expert_ffn: weights are {types}; the kernel takes float32 and bfloat16")
    weights = tuple(w.astype(dtype) for w in expert_weights)
    shape = ExpertShape(x_RD.shape[0], num_experts, dim, ffn, itemsize=dtype.itemsize)
    return _swiglu(x_RD, offsets.astype(jnp.int32), weights, shape, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _swiglu(x_RD, offsets, weights, shape, interpret):
    return _forward(x_RD, offsets, weights, shape, interpret, saves=False)[0]


def _forward(x_RD, offsets, weights, shape, interpret, *, saves=True):
    """(y, what backward needs: gate · x and up · x too where they are to be kept)."""
    gate, up, down = weights
    visits = _visits(offsets, shape, for_sums=False)
    rows = functools.partial(_rows, visits=visits, offsets=offsets, interpret=interpret)

    def finish(gate, up):
        return (*_hidden(gate, up), gate, up) if saves else _hidden(gate, up)

    of_hidden, of_y = shape.forward_calls(saves=saves)
    hidden_RF, *saved = rows(of_hidden, [x_RD], [gate, up], finish)
    (y_RD,) = rows(of_y, [hidden_RF], [down], lambda product: (product,))
    return y_RD, (x_RD, offsets, weights, saved)


def _backward(shape, interpret, residuals, dy_RD):
    x_RD, offsets, (gate, up, down), saved = residuals
    d_hidden, d_x, d_gate_up, d_down = shape.backward_calls()
    visits = _visits(offsets, shape, for_sums=False)
    rows = functools.partial(_rows, visits=visits, offsets=offsets, transposed=True, interpret=interpret)
    dgate_RF, dup_RF, hidden_RF = rows(d_hidden, [dy_RD], [down], _hidden_gradient, extras=saved)
    (dx_RD,) = rows(d_x, [dgate_RF, dup_RF], [gate, up], lambda a, b: (a + b,))
    visits = _visits(offsets, shape, for_sums=True)
    sums = functools.partial(_sums, visits=visits, offsets=offsets, interpret=interpret)
    dgate_EDF, dup_EDF = sums(d_gate_up, x_RD, [dgate_RF, dup_RF], dtype=gate.dtype)
    (ddown_EFD,) = sums(d_down, hidden_RF, [dy_RD], dtype=down.dtype)
    return dx_RD, None, (dgate_EDF, dup_EDF, ddown_EFD)


_swiglu.defvjp(_forward, _backward)


def _hidden(gate, up):
    return (jax.nn.silu(gate) * up,)


def _hidden_gradient(dhidden, gate, up):
    sigmoid = jax.nn.sigmoid(gate)
    silu = gate * sigmoid
    return dhidden * up * (sigmoid + silu * (1 - sigmoid)), dhidden * silu, silu * up


def _visits(offsets, shape, *, for_sums):
    """(expert of each visit, block of each visit, number of visits); ``for_sums``: an expert without rows has one too.

    The lists are one longer than the most visits there can be; what is past the last has expert E and is not run.
    """
    rows = shape.rows_per_block
    num_blocks = pl.cdiv(shape.rows, rows)
    start_E, end_E = offsets[:-1], offsets[1:]
    first_E = start_E // rows
    visits_E = jnp.where(end_E > start_E, pl.cdiv(end_E, rows) - first_E, int(for_sums))
    last_E = jnp.cumsum(visits_E)
    visit = jnp.arange(num_blocks + shape.experts, dtype=jnp.int32)
    expert = (last_E <= visit[:, None]).sum(1, dtype=jnp.int32)
    of = jnp.minimum(expert, shape.experts - 1)
    block = jnp.clip((first_E + visits_E - last_E)[of] + visit, 0, num_blocks - 1)
    return expert, block.astype(jnp.int32), last_E[-1].astype(jnp.int32)


def _rows(call, inputs, weights, finish, *, visits, offsets, extras=(), transposed=False, interpret):
    """Arrays [R, N]: ``finish`` of the products inputs · weights[expert of the row] and of ``extras`` [R, N].

    weights: [E, K, N], or [E, N, K] if ``transposed``; a single input goes with all of them.
    """
    generation = hardware.generation()
    rows, columns = call.blocks(generation)
    contracted, num_rows = call.contracted, call.shape.rows
    expert, block, num_visits = visits
    of_rows = pl.BlockSpec((rows, contracted), lambda n, v, expert, block, _: (block[v], 0))
    of_result = pl.BlockSpec((rows, columns), lambda n, v, expert, block, _: (block[v], n))
    of_weights = pl.BlockSpec((None, contracted, columns), lambda n, v, expert, block, _: (expert[v], 0, n))
    if transposed:
        of_weights = pl.BlockSpec((None, columns, contracted), lambda n, v, expert, block, _: (expert[v], n, 0))

    def kernel(expert_ref, block_ref, offsets_ref, *refs):
        refs = iter(refs)
        input_refs, weight_refs, extra_refs, out_refs = (
            [next(refs) for _ in range(n)] for n in (len(inputs), len(weights), len(extras), call.outputs)
        )
        contracted_dims = NT if transposed else NN
        products = [
            dot(input_refs[i % len(inputs)][...], w[...], contracted=contracted_dims) for i, w in enumerate(weight_refs)
        ]
        results = finish(*products, *(ref[...].astype(jnp.float32) for ref in extra_refs))
        is_mine = _is_mine(expert_ref, block_ref, offsets_ref, pl.program_id(1), (rows, columns))
        for ref, result in zip(out_refs, results, strict=True):
            ref[...] = jnp.where(is_mine, result, ref[...].astype(jnp.float32)).astype(ref.dtype)

    return pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(pl.cdiv(call.columns, columns), num_visits),
            in_specs=[of_rows] * len(inputs) + [of_weights] * len(weights) + [of_result] * len(extras),
            out_specs=[of_result] * call.outputs,
        ),
        out_shape=[jax.ShapeDtypeStruct((num_rows, call.columns), inputs[0].dtype)] * call.outputs,
        compiler_params=compiler_params(generation, "parallel", "arbitrary", vmem=7 / 8),
        cost_estimate=call.cost(generation),
        interpret=interpret,
        name=call.name,
    )(expert, block, offsets, *inputs, *weights, *extras)


def _sums(call, left_RK, rights_RN, *, visits, offsets, dtype, interpret):
    """For each right array, the sum leftᵀ · right over each expert's rows, [E, K, N]."""
    generation = hardware.generation()
    rows, left, right = call.blocks(generation)
    expert, block, num_visits = visits
    of_left = pl.BlockSpec((rows, left), lambda k, n, v, expert, block, _: (block[v], k))
    of_right = pl.BlockSpec((rows, right), lambda k, n, v, expert, block, _: (block[v], n))
    of_sums = pl.BlockSpec((None, left, right), lambda k, n, v, expert, block, _: (expert[v], k, n))

    def kernel(expert_ref, block_ref, offsets_ref, left_ref, *refs):
        right_refs, out_refs, sum_refs = (refs[n : n + call.products] for n in range(0, len(refs), call.products))
        visit = pl.program_id(2)

        @pl.when((visit == 0) | (expert_ref[jnp.maximum(visit - 1, 0)] != expert_ref[visit]))
        def _():
            for ref in sum_refs:
                ref[...] = jnp.zeros_like(ref)

        def mine(ref):  # both, since nothing times what lies past the last row may not be nothing
            is_mine = _is_mine(expert_ref, block_ref, offsets_ref, visit, ref.shape)
            return jnp.where(is_mine, ref[...].astype(jnp.float32), 0.0).astype(ref.dtype)

        left_bK = mine(left_ref)
        for right_ref, sum_ref in zip(right_refs, sum_refs, strict=True):
            sum_ref[...] += dot(left_bK, mine(right_ref), contracted=TN)

        @pl.when(expert_ref[visit] != expert_ref[visit + 1])
        def _():
            for out_ref, sum_ref in zip(out_refs, sum_refs, strict=True):
                out_ref[...] = sum_ref[...].astype(out_ref.dtype)

    return pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(pl.cdiv(call.left, left), pl.cdiv(call.right, right), num_visits),
            in_specs=[of_left] + [of_right] * call.products,
            out_specs=[of_sums] * call.products,
            scratch_shapes=[pltpu.VMEM((left, right), jnp.float32)] * call.products,
        ),
        out_shape=[jax.ShapeDtypeStruct((call.shape.experts, call.left, call.right), dtype)] * call.products,
        compiler_params=compiler_params(generation, "parallel", "parallel", "arbitrary", vmem=7 / 8),
        cost_estimate=call.cost(generation),
        interpret=interpret,
        name=call.name,
    )(expert, block, offsets, left_RK, *rights_RN)


def _is_mine(expert_ref, block_ref, offsets_ref, visit, block_shape):
    """Which rows of a visit's block are its expert's, spread over the block."""
    expert = expert_ref[visit]
    row = block_ref[visit] * block_shape[0] + jax.lax.broadcasted_iota(jnp.int32, block_shape, 0)
    return (row >= offsets_ref[expert]) & (row < offsets_ref[expert + 1])
