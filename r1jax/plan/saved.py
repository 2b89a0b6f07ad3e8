"""What the forward pass keeps for the backward one, from the model's own trace and without a device.

JAX tells it exactly: the arrays that ``jax.vjp`` closes over, at whatever ``remat`` says. The model is traced for a TPU that is
described only (``AbstractMesh``), so they are those of the kernels. How XLA spreads them is not in the trace: what is computed
within ``shard_map`` is on all devices, each its own; the rest follows the tokens, and the heads and widths over "tensor".
"""

import collections
import math

import jax
import jax.numpy as jnp
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from r1jax.kernels.tpu_kernel import LANES
from r1jax.models.transformer import Model

KINDS = {"v5e": ("TPU v5 lite", 1), "v5p": ("TPU v5", 2), "v6e": ("TPU v6 lite", 1), "tpu7x": ("TPU7x", 1)}
"""Generation -> JAX's name of the device and its TensorCores."""


def abstract_mesh(axes, generation: str) -> AbstractMesh:
    """A mesh, or sizes by axis name, as one of that generation's devices that are nowhere."""
    kind, cores = KINDS[generation]
    device = AbstractDevice(device_kind=kind, num_cores=cores, platform="tpu")
    names, sizes = tuple(axes), tuple(axes.values())
    return AbstractMesh(sizes, names, axis_types=(AxisType.Auto,) * len(names), abstract_device=device)


def saved_bytes(model: Model, mesh, generation: str, *, rows: int, length: int) -> int:
    """Bytes of one device that a pass over [rows, length] tokens keeps, parameters not counted."""
    params, buffers = model.abstract()
    tokens_BT = jax.ShapeDtypeStruct((rows, length), jnp.int32)

    def kept(params, buffers, tokens_BT):
        def loss(params):
            hidden_BTD, _, _ = model.hidden(params, buffers, tokens_BT, positions_BT=tokens_BT, segments_BT=tokens_BT)
            return model.token_logprob(params, hidden_BTD, tokens_BT)[0].sum()

        return jax.vjp(loss, params)[1]

    with jax.sharding.use_abstract_mesh(abstract_mesh(mesh.shape, generation)):
        arrays = jax.tree.leaves(jax.eval_shape(kept, params, buffers, tokens_BT))
    own = collections.Counter((a.shape, a.dtype) for a in jax.tree.leaves(params))
    total = 0
    for array in arrays:
        if own[array.shape, array.dtype]:
            own[array.shape, array.dtype] -= 1
        else:
            numbers = array.size * _padding(array.shape, model.config)
            parts = _num_parts(array.shape, model.config, mesh, rows * length)
            total += int(numbers * array.dtype.itemsize / parts)
    return total


def _padding(shape, config) -> float:
    """How much longer MLA's heads are as the attention kernel has them, in rows of 128 lanes; XLA packs GQA's again."""
    narrow = {config.nope_head_dim, config.value_head_dim, config.rope_head_dim} if config.attention == "mla" else {}
    return -shape[-1] % LANES / shape[-1] + 1 if len(shape) > 3 and shape[-1] in narrow else 1.0


def _num_parts(shape, config, mesh, num_tokens: int) -> int:
    """Over how many devices an array is spread: of those that hold the tokens' whole width, "tensor" has copies."""
    whole = {config.model_dim, config.q_lora_rank, config.kv_lora_rank, config.kv_lora_rank + config.rope_head_dim, 1}
    stacks = {1, config.num_moe_layers, config.num_layers - config.num_moe_layers}
    is_whole = len(shape) > 1 and shape[-1] in whole and math.prod(shape[:-1]) in {num_tokens * n for n in stacks}
    return mesh.size // (mesh.shape["tensor"] if is_whole else 1)
