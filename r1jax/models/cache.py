"""The keys and values that a batch of sequences has so far, and how attention writes and reads them.

Two kinds. *Dense*, a plain dict: ``layers``, a tuple with one dict of arrays a layer ({"k_BSJH", "v_BSJH"} for GQA;
{"latent_BSC", "rope_BSR"} for MLA: 576 numbers a token in V3, spec A.3.3), ``segments_BS`` (0 where a slot holds no
token) and ``length``, the number of slots written. All sequences share ``length``: prompts are padded on the left. Read
by plain XLA, best on a CPU.

*Paged* (``PagedCache``): a pool of pages a layer, in the layout of ``kernels.paged_decode``, which reads it; each
sequence has a length of its own and finds its pages in a table, so that it takes what it needs, may share pages with
others, and is moved by moving a row of the table. Tokens are padded on the right.

``take_slots`` is where the two part: what it gives, attention uses without knowing the kind.
"""

import dataclasses
import types
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.kernels import hardware, paged_decode
from r1jax.kernels.flash_attention import attention, attention_mask, with_rope
from r1jax.models.config import ModelConfig

Layer = dict[str, jax.Array]
"""One layer's arrays in a cache."""


def take_slots(cache, segments_BT: jax.Array, *, is_prefill: bool) -> "Slots":
    """The next slots of ``cache``, of either kind, for T tokens a sequence, of which those in segment 0 are padding."""
    if isinstance(cache, PagedCache):
        return PagedSlots(cache, jnp.sum(segments_BT > 0, axis=1, dtype=jnp.int32), not is_prefill)
    start = 0 if is_prefill else cache["length"]
    segments_BS = jax.lax.dynamic_update_slice_in_dim(cache["segments_BS"], segments_BT, start, axis=1)
    return DenseSlots(cache, segments_BT, segments_BS, start, not is_prefill)


NEW_TOKENS = types.SimpleNamespace(is_read=False, write=lambda layer, new: new)
"""For ``Slots`` within a loop over layers: ``write`` gives the new tokens themselves, to be written after it."""


def best_kind() -> str:
    """The kind for the program that is traced: "paged" for TPUs, which have kernels that read it; elsewhere "dense"."""
    return "paged" if hardware.is_tpu() else "dense"


def init_cache(config: ModelConfig, *, batch: int, length: int, num_mtp_layers: int = 0) -> dict:
    """Empty dense cache with ``length`` slots for ``batch`` sequences in every layer, in the model's compute type.

    ``num_mtp_layers``: depths of MTP that have a layer of it too, after the model's.
    """
    dtype = jnp.dtype(config.dtype)

    def layer() -> Layer:
        if config.attention == "gqa":
            shape = (batch, length, config.num_kv_heads, config.head_dim)
            return {"k_BSJH": jnp.zeros(shape, dtype), "v_BSJH": jnp.zeros(shape, dtype)}
        return {
            "latent_BSC": jnp.zeros((batch, length, config.kv_lora_rank), dtype),
            "rope_BSR": jnp.zeros((batch, length, config.rope_head_dim), dtype),
        }

    return {
        "layers": tuple(layer() for _ in range(config.num_layers + num_mtp_layers)),
        "segments_BS": jnp.zeros((batch, length), jnp.int32),
        "length": jnp.zeros((), jnp.int32),
    }


def repeat(cache: dict, times: int) -> dict:
    """Each sequence of a dense cache ``times`` times in a row: one prefill serves the G samples of a prompt."""
    return cache | jax.tree.map(lambda a: jnp.repeat(a, times, axis=0), per_sequence(cache))


def grow(cache: dict, length: int) -> dict:
    """The same dense cache with ``length`` slots: a decode step reads all slots, so they are added as they are needed."""
    extra = length - cache["segments_BS"].shape[1]

    return cache | jax.tree.map(
        lambda a: jnp.pad(a, [(0, 0), (0, extra)] + [(0, 0)] * (a.ndim - 2)), per_sequence(cache)
    )


@dataclasses.dataclass(frozen=True)
class DenseSlots:
    """The slots that T new tokens of each sequence take in a dense cache: every layer writes them there and attends to
    them.

    ``is_read``: attention is over all of the cache; else among the new tokens alone (prefill of an empty one).
    ``are_layers_scanned``: the tokens of all layers are made first, in a loop that is compiled once, and written then.
    """

    cache: dict
    segments_BT: jax.Array
    segments_BS: jax.Array
    start: Any
    is_read: bool

    are_layers_scanned = False

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers as they were."""
        return self.cache["layers"]

    def write(self, layer: Layer, new: Layer) -> Layer:
        """``layer`` with the new tokens: "latent_BTC" and "rope_BTR", or "k_BTJH" and "v_BTJH"."""

        def written(old, new):
            return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), self.start, axis=1)

        return {name: written(old, new[name.replace("_BS", "_BT")]) for name, old in layer.items()}

    def attend(self, layer: Layer, q_BTNH, q_rope_BTNR=None, *, scale: float) -> jax.Array:
        """Attention over a layer that was written, [B, T, N, H]; with the rope part, absorbed MLA's, where H is C."""
        if q_rope_BTNR is None:
            k_BSJH, v_BSJH = layer["k_BSJH"], layer["v_BSJH"]
        else:
            v_BSJH = layer["latent_BSC"][:, :, None]
            q_BTNH, k_BSJH = with_rope(q_BTNH, v_BSJH, q_rope_BTNR, layer["rope_BSR"])
        mask_BTS = attention_mask(self.segments_BT, self.segments_BS, q_offset=self.start)
        return attention(q_BTNH, k_BSJH, v_BSJH, mask_BTS=mask_BTS, scale=scale)

    def advanced(self, layers: tuple[Layer, ...]) -> dict:
        """The cache that holds the new tokens too."""
        length = self.cache["length"] + self.segments_BT.shape[1]
        return {"layers": layers, "segments_BS": self.segments_BS, "length": length}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class PagedCache:
    """Pages of S tokens; token t of sequence b is in slot t % S of page ``page_table_BI[b, t // S]`` of every layer's
    pool.

    A row of the table may name pages of another one as long as neither writes there: a sequence writes at its length.
    Entries past its last page may be any page. A batch of new tokens is padded on the right, and a sequence may have
    none; where the cache is read, it has all T or none. ``batch_axes``: the mesh axes that cut sequences and pools
    alike (``paged_decode.pages``).
    """

    layers: tuple[Layer, ...]
    page_table_BI: jax.Array
    lengths_B: jax.Array
    batch_axes: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})

    @property
    def page_size(self) -> int:
        """S."""
        return next(self.layers[0][name].shape[-2] for name in ("kv_WJSA", "latent_WSC") if name in self.layers[0])


def init_paged_cache(
    config: ModelConfig,
    *,
    page_table_BI,
    num_pages: int,
    page_size: int,
    batch_axes: tuple[str, ...] = (),
    num_mtp_layers: int = 0,
) -> PagedCache:
    """Empty paged cache whose pools have ``num_pages`` pages of ``page_size`` tokens each, in the model's compute type.

    ``num_mtp_layers``: as in ``init_cache``.
    """
    num_layers = config.num_layers + num_mtp_layers
    sizes = {"num_pages": num_pages, "page_size": page_size, "dtype": jnp.dtype(config.dtype), "batch_axes": batch_axes}
    if config.attention == "gqa":
        sizes |= {"kv_heads": config.num_kv_heads, "head_dim": config.head_dim}
    else:
        sizes |= {"latent_dim": config.kv_lora_rank, "rope_dim": config.rope_head_dim}
    return PagedCache(
        layers=tuple(paged_decode.pages.init_pages(**sizes) for _ in range(num_layers)),
        page_table_BI=jnp.asarray(page_table_BI, jnp.int32),
        lengths_B=jnp.zeros((page_table_BI.shape[0],), jnp.int32),
        batch_axes=batch_axes,
    )


def fork(cache: PagedCache, *, page_table_BI: jax.Array, num_samples: int) -> PagedCache:
    """Each sequence ``num_samples`` times in a row, under a new table that shares its full pages; the last one is
    copied.

    The sequences' own table must be that of the first of their samples.
    """
    lengths_B = jnp.repeat(cache.lengths_B, num_samples)
    last_B1 = jnp.minimum(lengths_B // cache.page_size, page_table_BI.shape[1] - 1)[:, None]
    tables = jnp.repeat(cache.page_table_BI, num_samples, axis=0), page_table_BI
    pages_B2 = jnp.concatenate([jnp.take_along_axis(table, last_B1, axis=1) for table in tables], axis=1)
    copied = (paged_decode.pages.copy(layer, pages_B2=pages_B2, batch_axes=cache.batch_axes) for layer in cache.layers)
    return dataclasses.replace(cache, layers=tuple(copied), page_table_BI=page_table_BI, lengths_B=lengths_B)


def per_sequence(cache) -> dict[str, Any]:
    """Those arrays of a cache of either kind that have a sequence dim, the first: all but "length", or all but the pools."""
    if isinstance(cache, PagedCache):
        return {"page_table_BI": cache.page_table_BI, "lengths_B": cache.lengths_B}
    return {"layers": cache["layers"], "segments_BS": cache["segments_BS"]}


def with_sequences(cache, arrays: dict[str, Any]):
    """The cache with other ``per_sequence`` arrays."""
    return dataclasses.replace(cache, **arrays) if isinstance(cache, PagedCache) else cache | arrays


def step_segments(cache, is_done_B: jax.Array) -> jax.Array:
    """Segments [B, 1] of one more token a sequence: where it is done it needs no page, and a slot of the dense kind anyway."""
    if isinstance(cache, PagedCache):
        return (~is_done_B).astype(jnp.int32)[:, None]
    return jnp.ones((is_done_B.shape[0], 1), jnp.int32)


@dataclasses.dataclass(frozen=True)
class PagedSlots:
    """``DenseSlots`` of a paged cache; ``counts_B`` of each sequence's tokens are no padding."""

    cache: PagedCache
    counts_B: jax.Array
    is_read: bool

    @property
    def are_layers_scanned(self):
        return not self.is_read

    @property
    def layers(self):
        return self.cache.layers

    def write(self, layer, new):
        places = {"page_table_BI": self.cache.page_table_BI, "start_B": self.cache.lengths_B}
        return paged_decode.write_pages(layer, new, **places, counts_B=self.counts_B, batch_axes=self.cache.batch_axes)

    def attend(self, layer, q_BTNH, q_rope_BTNR=None, *, scale):
        lengths_B = self.cache.lengths_B + self.counts_B
        options = {"page_table_BI": self.cache.page_table_BI, "lengths_B": lengths_B, "scale": scale}
        options["batch_axes"] = self.cache.batch_axes
        if q_rope_BTNR is None:
            return paged_decode.gqa_decode(q_BTNH, layer, **options)
        return paged_decode.mla_decode(q_BTNH, q_rope_BTNR, layer, **options)

    def advanced(self, layers):
        return dataclasses.replace(self.cache, layers=layers, lengths_B=self.cache.lengths_B + self.counts_B)


Slots = DenseSlots | PagedSlots
"""Attention uses either without knowing which."""
