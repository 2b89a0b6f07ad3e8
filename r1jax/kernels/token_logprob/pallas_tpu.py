"""Token log-probabilities on a TPU: the logits of one block of rows and tokens at a time, in VMEM only.

Source: log π and entropy as R1 Eq. 2 and the loss need them; the online softmax is that of Milakov & Gimelshein 2018,
the idea to never write logits that of Liger and Cut Cross-Entropy (Wijmans et al. 2024). ``reference`` defines the
operation.

Logits lie transposed, tokens in sublanes and rows in lanes, [v, b]: what is known of a row is one lane, and sums over
tokens are elementwise.

Forward: blocks of rows are the outer loop, blocks of the vocabulary the inner one, the model width is whole. Of each
row VMEM keeps the highest logit m, Σ exp(z − m), Σ exp(z − m)·(z − m) and the target's logit. A new maximum rescales
the first sum and shifts the second, so that neither log π nor the entropy is a difference of two large numbers. A block
whose logits are all −inf adds nothing.

Backward: dz = (dlogp·(1[target] − p) − dentropy·p·(log p + entropy)) / temperature needs the logits again, and then is
wanted
twice: dx = dzᵀ·w, dw = dz·x. A call takes as many rows as VMEM holds with their gradient in float32, and passes over
the vocabulary once: each block of the weights' gradient is read, added to and written in float32, in place; a scan runs
the calls. So all logits are computed twice, once forward and once backward, 8·X·V·D FLOPs in all: the least that is
possible without keeping them. Two kernels, one for dx and one for dw, would need 10.

A vocabulary that is split over devices: each has log π, entropy and normaliser of its own tokens, and ``_joined`` makes
of them those of all. With the latter the backward pass is the same, since p and log p are of the whole vocabulary then.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec as P

from r1jax.kernels import dispatch, hardware
from r1jax.kernels.hardware import NT, TN, compiler_params, dot
from r1jax.kernels.token_logprob.shapes import LogprobShape

_CHUNK = 1024
"""Columns of a gradient that are computed at once in VMEM."""


def token_logprob(x_XD, w_VD, targets_X, *, temperature, interpret=False) -> tuple[jax.Array, jax.Array]:
    """See ``r1jax.kernels.token_logprob.token_logprob``; ``interpret`` is that of ``pl.pallas_call``.

    On a mesh over rows ("batch", and within it "length") and tokens of the vocabulary ("vocab"): a device has the
    logits of its rows and tokens only. Weights whose width is split ("embed") are put together for it, in the type of
    the rows, and their gradients split again.
    """
    if x_XD.ndim != 2 or w_VD.ndim != 2 or x_XD.shape[1] != w_VD.shape[1] or targets_X.shape != x_XD.shape[:1]:
        raise ValueError(
            f"token_logprob: rows {x_XD.shape}, weights {w_VD.shape}, targets {targets_X.shape}; the kernel takes [X, D], "
            "[V, D], [X]"
        )
    if any(a.dtype not in (jnp.float32, jnp.bfloat16) for a in (x_XD, w_VD)):
        raise ValueError(
            f"token_logprob: rows are {x_XD.dtype}, weights {w_VD.dtype}; the kernel takes float32 and bfloat16"
        )
    num_rows, mesh_shape = x_XD.shape[0], jax.sharding.get_abstract_mesh().shape
    batch, length, vocab = dispatch.mesh_axes(("batch", "length", "vocab"), (num_rows, num_rows, w_VD.shape[0]))
    rows = (*batch, *length) if num_rows % math.prod(mesh_shape[axis] for axis in (*batch, *length)) == 0 else batch
    (embed,) = dispatch.mesh_axes(("embed",), w_VD.shape[1:])

    def part(x_XD, w_VD, targets_X, temperature):
        if embed:
            w_VD = jax.lax.all_gather(w_VD.astype(x_XD.dtype), embed, axis=1, tiled=True)
        inverse = jax.lax.stop_gradient(1.0 / temperature).reshape(1, 1)
        shape = LogprobShape(*x_XD.shape[:1], *w_VD.shape, itemsize=x_XD.dtype.itemsize)
        targets_X = targets_X.astype(jnp.int32)
        if vocab:
            local_X = targets_X - jax.lax.axis_index(vocab) * shape.vocab
            targets_X = jnp.where((local_X >= 0) & (local_X < shape.vocab), local_X, -1)
        return _logprob(x_XD, w_VD, targets_X, inverse, shape, vocab, interpret)

    return dispatch.run_on_parts(
        part,
        (x_XD, w_VD, targets_X, jnp.asarray(temperature, jnp.float32)),
        in_specs=(P(rows, None), P(vocab, embed), P(rows), P()),
        out_specs=(P(rows), P(rows)),
    )


def _logprob_fwd(x_XD, w_VD, targets_X, inverse, shape, vocab_axes, interpret):
    generation = hardware.generation()
    rows, tokens = shape.forward_blocks(generation)
    of_row = pl.BlockSpec((1, rows), lambda i, v: (0, i))
    of_x = pl.BlockSpec((rows, shape.dim), lambda i, v: (i, 0))
    of_w = pl.BlockSpec((tokens, shape.dim), lambda i, v: (v, 0))
    logp_1X, entropy_1X, normaliser_1X = pl.pallas_call(
        functools.partial(_forward_kernel, vocab=shape.vocab),
        grid=(pl.cdiv(shape.rows, rows), pl.cdiv(shape.vocab, tokens)),
        in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM), of_row, of_x, of_w],
        out_specs=[of_row] * 3,
        out_shape=[jax.ShapeDtypeStruct((1, shape.rows), jnp.float32)] * 3,
        scratch_shapes=[pltpu.VMEM((1, rows), jnp.float32)] * 4,
        compiler_params=compiler_params(generation, "parallel", "arbitrary", vmem=7 / 8),
        cost_estimate=shape.passes(generation)["forward"],
        interpret=interpret,
        name="token_logprob",
    )(inverse, targets_X[None], x_XD, w_VD.astype(x_XD.dtype))
    results = (logp_1X[0], entropy_1X[0], normaliser_1X[0])
    logp_X, entropy_X, normaliser_X = _joined(*results, targets_X >= 0, vocab_axes) if vocab_axes else results
    return (logp_X, entropy_X), (x_XD, w_VD, targets_X, inverse, normaliser_X, entropy_X)


def _joined(logp_X, entropy_X, normaliser_X, is_local_X, vocab_axes):
    """(log π, entropy, normaliser) of the whole vocabulary from those of the parts, of which one has the target.

    A part has the share exp(its normaliser − the whole one) of the mass, and H = Σ share · (H of the part − log share).
    """
    highest_X = jax.lax.pmax(normaliser_X, vocab_axes)
    whole_X = highest_X + jnp.log(jax.lax.psum(jnp.exp(normaliser_X - highest_X), vocab_axes))
    log_share_X = normaliser_X - whole_X
    share_X = jnp.exp(log_share_X)
    entropy_X = jnp.where(share_X > 0, share_X * (entropy_X - log_share_X), 0.0)
    logp_X = jnp.where(is_local_X, logp_X + log_share_X, 0.0)
    return jax.lax.psum(logp_X, vocab_axes), jax.lax.psum(entropy_X, vocab_axes), whole_X


def _forward_kernel(
    inverse_ref, targets_ref, x_ref, w_ref, logp_ref, entropy_ref, normaliser_ref, *sum_refs, vocab: int
):
    highest_ref, total_ref, weighted_ref, chosen_ref = sum_refs
    block = pl.program_id(1)

    @pl.when(block == 0)
    def _():
        highest_ref[...] = jnp.full_like(highest_ref, -jnp.inf)
        for ref in sum_refs[1:]:
            ref[...] = jnp.zeros_like(ref)

    logits_vb, is_target_vb = _logits(inverse_ref, targets_ref, x_ref, w_ref[...], block, vocab)
    before_1b, total_1b = highest_ref[...], total_ref[...]
    highest_1b = jnp.maximum(before_1b, logits_vb.max(0, keepdims=True))
    base_1b = jnp.where(highest_1b == -jnp.inf, 0.0, highest_1b)
    scale_1b = jnp.exp(before_1b - base_1b)
    shift_1b = jnp.where(before_1b == -jnp.inf, 0.0, before_1b - base_1b)
    above_vb = logits_vb - base_1b
    weights_vb = jnp.exp(above_vb)
    products_vb = jnp.where(weights_vb > 0, weights_vb * above_vb, 0.0)
    weighted_ref[...] = (weighted_ref[...] + total_1b * shift_1b) * scale_1b + products_vb.sum(0, keepdims=True)
    total_ref[...] = total_1b * scale_1b + weights_vb.sum(0, keepdims=True)
    chosen_ref[...] += jnp.where(is_target_vb, logits_vb, 0.0).sum(0, keepdims=True)
    highest_ref[...] = highest_1b

    @pl.when(block == pl.num_programs(1) - 1)
    def _():
        log_total_1b = jnp.log(total_ref[...])
        logp_ref[...] = (chosen_ref[...] - highest_ref[...]) - log_total_1b
        entropy_ref[...] = log_total_1b - weighted_ref[...] / total_ref[...]
        normaliser_ref[...] = highest_ref[...] + log_total_1b


def _logprob_bwd(shape, vocab_axes, interpret, residuals, gradients):
    x_XD, w_VD, targets_X, inverse, normaliser_X, entropy_X = residuals
    if vocab_axes:  # the parts hold the result alike, so each has got a part of its gradient
        gradients = jax.lax.psum(gradients, vocab_axes)
    generation = hardware.generation()
    rows, tokens = shape.backward_blocks(generation)
    num_calls = pl.cdiv(shape.rows, rows)
    call = functools.partial(_backward_call, shape, generation, interpret, inverse, w_VD.astype(x_XD.dtype))

    def in_blocks(array_X, fill=0):
        padding = [(0, num_calls * rows - shape.rows)] + [(0, 0)] * (array_X.ndim - 1)
        return jnp.pad(array_X, padding, constant_values=fill).reshape(num_calls, rows, *array_X.shape[1:])

    of_row = [in_blocks(a)[:, None] for a in (*gradients, normaliser_X, entropy_X)]
    blocks = (in_blocks(targets_X, -1)[:, None], *of_row, in_blocks(x_XD))
    if num_calls == 1:
        dw_VD, dx_nbD = call(None, [block[0] for block in blocks])
    else:
        whole_blocks = pl.cdiv(shape.vocab, tokens) * tokens
        dw_VD, dx_nbD = jax.lax.scan(call, jnp.zeros((whole_blocks, shape.dim), jnp.float32), blocks)
    dx_XD = dx_nbD.reshape(-1, shape.dim)[: shape.rows]
    return dx_XD.astype(x_XD.dtype), dw_VD[: shape.vocab].astype(w_VD.dtype), None, None


_logprob = dispatch.with_gradient(_logprob_fwd, _logprob_bwd, static=(4, 5, 6))


def _backward_call(shape, generation, interpret, inverse, w_VD, dw_VD, block):
    """(dw + these rows' share of it, dx of these rows), float32; ``dw_VD`` None: there is nothing to add to."""
    rows, tokens = shape.backward_blocks(generation)
    of_row = pl.BlockSpec((1, rows), lambda v: (0, 0))
    # Both stay where they are for the whole call: a second buffer would be wasted.
    of_x = pl.BlockSpec((rows, shape.dim), lambda v: (0, 0), pipeline_mode=pl.Buffered(1))
    of_w = pl.BlockSpec((tokens, shape.dim), lambda v: (v, 0))
    adds = dw_VD is not None
    inputs = [inverse, *block, w_VD, *([dw_VD] if adds else [])]
    return pl.pallas_call(
        functools.partial(_backward_kernel, vocab=shape.vocab, adds=adds),
        grid=(pl.cdiv(shape.vocab, tokens),),
        in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM)] + [of_row] * 5 + [of_x, of_w] + [of_w] * adds,
        out_specs=[of_w, of_x],
        out_shape=[
            jax.ShapeDtypeStruct(dw_VD.shape if adds else w_VD.shape, jnp.float32),
            jax.ShapeDtypeStruct((rows, shape.dim), jnp.float32),
        ],
        input_output_aliases={len(inputs) - 1: 0} if adds else {},
        compiler_params=compiler_params(generation, "arbitrary", vmem=7 / 8),
        cost_estimate=shape.backward_call_cost(generation),
        interpret=interpret,
        name="token_logprob_gradient",
    )(*inputs)


def _backward_kernel(
    inverse_ref, targets_ref, dlogp_ref, dentropy_ref, normaliser_ref, entropy_ref, x_ref, w_ref, *refs, vocab, adds
):
    dw_ref, dx_ref = refs[adds:]
    block, tokens = pl.program_id(0), w_ref.shape[0]
    w_vD = w_ref[...]
    if vocab % tokens:  # past the vocabulary lies anything, and nothing times that may not be nothing
        is_token = _token(block, w_vD.shape) < vocab
        w_vD = jnp.where(is_token, w_vD.astype(jnp.float32), 0.0).astype(w_vD.dtype)
    logits_vb, is_target_vb = _logits(inverse_ref, targets_ref, x_ref, w_vD, block, vocab)
    logp_vb = logits_vb - normaliser_ref[...]
    probs_vb = jnp.exp(logp_vb)
    surprise_vb = jnp.where(probs_vb > 0, logp_vb + entropy_ref[...], 0.0)
    dlogits_vb = jnp.where(is_target_vb, dlogp_ref[...], 0.0)
    dlogits_vb -= probs_vb * (dlogp_ref[...] + dentropy_ref[...] * surprise_vb)
    dlogits_vb = (dlogits_vb * inverse_ref[0, 0]).astype(x_ref.dtype)

    @pl.when(block == 0)
    def _():
        dx_ref[...] = jnp.zeros_like(dx_ref)

    for start in range(0, x_ref.shape[1], _CHUNK):
        chunk = slice(start, min(start + _CHUNK, x_ref.shape[1]))
        dx_ref[:, chunk] += dot(dlogits_vb, w_vD[:, chunk], contracted=TN)
        dw_vd = dot(dlogits_vb, x_ref[:, chunk])
        dw_ref[:, chunk] = refs[0][:, chunk] + dw_vd if adds else dw_vd


def _logits(inverse_ref, targets_ref, x_ref, w_vD, block, vocab):
    """(logits over the temperature, which of them is the target), [v, b] each; −inf past the vocabulary."""
    logits_vb = dot(w_vD, x_ref[...], contracted=NT) * inverse_ref[0, 0]
    token_vb = _token(block, logits_vb.shape)
    if vocab % logits_vb.shape[0]:
        logits_vb = jnp.where(token_vb < vocab, logits_vb, -jnp.inf)
    return logits_vb, token_vb == targets_ref[...]


def _token(block, shape):
    return block * shape[0] + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
