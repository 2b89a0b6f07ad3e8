"""The TPU kernel over rows ("batch", and within it "length") and tokens of the vocabulary ("vocab").

A device has the logits of its rows and tokens only. What it knows of a row is put together by three sums over the vocabulary's
axis: see ``pallas_tpu``. Weights whose width is split ("embed") are put together for it, in the type of the rows, and their
gradients split again.
"""

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from r1jax.kernels import shards
from r1jax.kernels.token_logprob import pallas_tpu


def token_logprob(x_XD, w_VD, targets_X, *, temperature, interpret=False):
    """See ``r1jax.kernels.token_logprob.token_logprob``; the kernel itself where there is no mesh to split over."""
    mesh = shards.mesh_to_split()
    if mesh is None:
        return pallas_tpu.token_logprob(x_XD, w_VD, targets_X, temperature=temperature, interpret=interpret)
    num_rows = x_XD.shape[0]
    batch, length, vocab = shards.mesh_axes(("batch", "length", "vocab"), (num_rows, num_rows, w_VD.shape[0]), mesh)
    rows = (*batch, *length) if num_rows % math.prod(mesh.shape[axis] for axis in (*batch, *length)) == 0 else batch
    (embed,) = shards.mesh_axes(("embed",), w_VD.shape[1:], mesh)

    def part(x_XD, w_VD, targets_X, temperature):
        if embed:
            w_VD = jax.lax.all_gather(w_VD.astype(x_XD.dtype), embed, axis=1, tiled=True)
        return pallas_tpu.token_logprob(
            x_XD, w_VD, targets_X, temperature=temperature, vocab_axes=vocab, interpret=interpret
        )

    return shards.run(
        part,
        (x_XD, w_VD, targets_X, jnp.asarray(temperature, jnp.float32)),
        in_specs=(P(rows, None), P(vocab, embed), P(rows), P()),
        out_specs=(P(rows), P(rows)),
    )
