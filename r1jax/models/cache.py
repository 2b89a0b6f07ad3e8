"""The key/value cache of a batch of sequences that grow by one slot a step.

A cache is a plain dict: ``layers``, a tuple with one dict of arrays a layer ({"k_BSJH", "v_BSJH"} for GQA; {"latent_BSC",
"rope_BSR"} for MLA: 576 numbers a token in V3, spec A.3.3), ``segments_BS`` (0 where a slot holds no token) and
``length``, the number of slots written. All sequences share ``length``: prompts are padded on the left.
"""

import jax
import jax.numpy as jnp

from r1jax.models.config import ModelConfig


def init_cache(config: ModelConfig, *, batch: int, length: int, num_layers: int) -> dict:
    """Empty cache with ``length`` slots for ``batch`` sequences in ``num_layers`` layers, in the model's compute type."""
    dtype = jnp.dtype(config.dtype)

    def layer() -> dict[str, jax.Array]:
        if config.attention == "gqa":
            shape = (batch, length, config.num_kv_heads, config.head_dim)
            return {"k_BSJH": jnp.zeros(shape, dtype), "v_BSJH": jnp.zeros(shape, dtype)}
        return {
            "latent_BSC": jnp.zeros((batch, length, config.kv_lora_rank), dtype),
            "rope_BSR": jnp.zeros((batch, length, config.rope_head_dim), dtype),
        }

    return {
        "layers": tuple(layer() for _ in range(num_layers)),
        "segments_BS": jnp.zeros((batch, length), jnp.int32),
        "length": jnp.zeros((), jnp.int32),
    }


def write(layer: dict[str, jax.Array], new: dict[str, jax.Array], *, start) -> dict[str, jax.Array]:
    """``layer`` with ``new`` (T slots) at slots start..start+T−1."""
    return {
        name: jax.lax.dynamic_update_slice_in_dim(layer[name], new[name].astype(layer[name].dtype), start, axis=1)
        for name in layer
    }


def repeat(cache: dict, times: int) -> dict:
    """Each sequence ``times`` times in a row: one prefill serves the G samples of a prompt."""
    return cache | {
        "layers": jax.tree.map(lambda a: jnp.repeat(a, times, axis=0), cache["layers"]),
        "segments_BS": jnp.repeat(cache["segments_BS"], times, axis=0),
    }


def grow(cache: dict, length: int) -> dict:
    """The same cache with ``length`` slots: a decode step reads all slots, so they are added as they are needed."""
    extra = length - cache["segments_BS"].shape[1]

    def pad(a):
        return jnp.pad(a, ((0, 0), (0, extra)) + ((0, 0),) * (a.ndim - 2))

    return cache | {"layers": jax.tree.map(pad, cache["layers"]), "segments_BS": pad(cache["segments_BS"])}
