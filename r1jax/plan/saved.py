"""What the forward pass keeps for the backward one, from the model's own trace and without a device.

JAX gives it exactly: the arrays that ``jax.vjp`` closes over, under whatever ``remat`` says. The model is traced for TPUs that are
only described (``AbstractMesh``), so the arrays are those of the kernels. How XLA lays them out is not in the trace: what is
computed within ``shard_map`` is taken to be split over all devices; the rest follows the tokens, and heads and widths "tensor".
"""

import collections
import math

import jax
import jax.numpy as jnp

from r1jax.kernels.hardware import LANES
from r1jax.models.transformer import Model
from r1jax.plan.hardware import abstract_mesh


def saved_bytes(model: Model, mesh, generation: str, *, rows: int, length: int) -> int:
    """Bytes of one device that a pass over [rows, length] tokens keeps, without the parameters."""
    params, buffers = model.abstract()
    tokens_BT = jax.ShapeDtypeStruct((rows, length), jnp.int32)

    def kept(params, buffers, tokens_BT):
        def loss(params):
            hidden_BTD, _, _ = model.hidden(params, buffers, tokens_BT, positions_BT=tokens_BT, segments_BT=tokens_BT)
            return model.token_logprob(params, hidden_BTD, tokens_BT)[0].sum()

        return jax.vjp(loss, params)[1]

    with jax.sharding.use_abstract_mesh(abstract_mesh(mesh.shape, generation)):
        arrays = jax.tree.leaves(jax.eval_shape(kept, params, buffers, tokens_BT))
    weights = collections.Counter((a.shape, a.dtype) for a in jax.tree.leaves(params))
    total = 0
    for array in arrays:
        if weights[array.shape, array.dtype]:
            weights[array.shape, array.dtype] -= 1
        else:
            size = array.size * _padding(array.shape, model.config) * array.dtype.itemsize
            total += int(size / _num_parts(array.shape, model.config, mesh, rows * length))
    return total


def _padding(shape, config) -> float:
    """How much longer MLA's heads are in the attention kernel, whose rows have 128 lanes; XLA packs GQA's again."""
    narrow = {config.nope_head_dim, config.value_head_dim, config.rope_head_dim} if config.attention == "mla" else {}
    return -shape[-1] % LANES / shape[-1] + 1 if len(shape) > 3 and shape[-1] in narrow else 1.0


def _num_parts(shape, config, mesh, num_tokens: int) -> int:
    """Over how many devices an array is split: those with the tokens' whole width are copied along "tensor"."""
    whole = {config.model_dim, config.q_lora_rank, config.kv_lora_rank, config.kv_lora_rank + config.rope_head_dim, 1}
    stacks = {1, config.num_moe_layers, config.num_layers - config.num_moe_layers}
    is_whole = len(shape) > 1 and shape[-1] in whole and math.prod(shape[:-1]) in {num_tokens * n for n in stacks}
    return mesh.size // (mesh.shape["tensor"] if is_whole else 1)
