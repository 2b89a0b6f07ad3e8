"""The keys and values that a batch of sequences has so far, and how attention writes and reads them.

Each sequence is a row with a length of its own: the slots of its first ``lengths_B[b]`` tokens hold them. New tokens
are written after these, padded on the right. Two kinds.

*Dense* (``DenseCache``): every row has the same number of slots of its own. Read by plain XLA, best on a CPU.

*Paged* (``PagedCache``): a pool of pages a layer, in the layout of ``kernels.paged_decode``, which reads it; a row finds
its pages in a table, so that it takes what it needs, may share pages with others, and is moved by moving a row of the
table.

``take_slots`` is where the two part: what it gives, attention uses without knowing the kind. Both hold, a layer and
token, {key and value of each key head} of GQA, or {latent, rotated key} of MLA: 576 numbers in V3 (spec A.3.3).
"""

import dataclasses
import types

import jax
import jax.numpy as jnp

from r1jax import members
from r1jax.kernels import dense_decode, hardware, paged_decode
from r1jax.models.config import ModelConfig

Layer = dict[str, jax.Array]
"""One layer's arrays in a cache."""


def take_slots(cache: "Cache", segments_BT: jax.Array, *, is_prefill: bool) -> "Slots":
    """The next slots of ``cache`` for T tokens a row, of which those in segment 0 are padding."""
    counts_B = jnp.sum(segments_BT > 0, axis=1, dtype=jnp.int32)
    if isinstance(cache, PagedCache):
        return PagedSlots(cache, counts_B, not is_prefill)
    return DenseSlots(cache, counts_B, not is_prefill)


NEW_TOKENS = types.SimpleNamespace(is_read=False, write=lambda layer, new: new)
"""For ``Slots`` within a loop over layers: ``write`` gives the new tokens themselves, to be written after it."""


def best_kind() -> str:
    """The kind for the program that is traced: "paged" for TPUs, which have kernels that read it; elsewhere "dense"."""
    return "paged" if hardware.is_tpu() else "dense"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseCache:
    """Token t of row b is in slot t of row b of each array: "k_BJSH" and "v_BJSH", or "latent_BSC" and "rope_BSR"."""

    layers: tuple[Layer, ...]
    lengths_B: jax.Array


def init_cache(config: ModelConfig, *, batch: int, length: int, num_mtp_layers: int = 0) -> DenseCache:
    """Empty dense cache with ``length`` slots for each of ``batch`` rows in every layer, in the model's compute type
    (``dense_decode.storage_dtype``).

    ``num_mtp_layers``: depths of MTP that have a layer of it too, after the model's.
    """
    dtype = dense_decode.storage_dtype(config.dtype)
    heads = {"k_BJSH": (config.num_kv_heads, length, config.head_dim)}
    shapes = {"latent_BSC": (length, config.kv_lora_rank), "rope_BSR": (length, config.rope_head_dim)}
    shapes = heads | {"v_BJSH": heads["k_BJSH"]} if config.attention == "gqa" else shapes
    layers = tuple(
        {name: jnp.zeros((batch, *shape), dtype) for name, shape in shapes.items()}
        for _ in range(config.num_layers + num_mtp_layers)
    )
    return DenseCache(layers=layers, lengths_B=jnp.zeros((batch,), jnp.int32))


def insert(layers: tuple[Layer, ...], rows: tuple[Layer, ...], *, source_N, target_N) -> tuple[Layer, ...]:
    """Dense layers whose row ``target_N[n]`` begins as row ``source_N[n]`` of ``rows``, which have no more slots.

    A target that is no row is left out.
    """

    def inserted(old: jax.Array, new: jax.Array) -> jax.Array:
        begin = (target_N, *[slice(None)] * (old.ndim - 3), slice(new.shape[-2]))
        return old.at[begin].set(new[source_N], mode="drop")

    return jax.tree.map(inserted, layers, rows)


@dataclasses.dataclass(frozen=True)
class DenseSlots:
    """The slots that T new tokens of each row take in a dense cache: every layer writes them there and attends to them.

    ``counts_B`` of each row's tokens are no padding. ``is_read``: attention is over all of the cache; else among the
    new tokens alone: prefill of an empty one.
    """

    cache: DenseCache
    counts_B: jax.Array
    is_read: bool

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers as they were."""
        return self.cache.layers

    @property
    def _start_B(self) -> jax.Array:
        """Where each row's tokens begin; those of a row that has none are neither written nor attended from."""
        return jnp.where(self.counts_B > 0, self.cache.lengths_B, jnp.iinfo(jnp.int32).min // 2)

    def write(self, layer: Layer, new: Layer) -> Layer:
        """``layer`` with the new tokens: "latent_BTC" and "rope_BTR", or "k_BTJH" and "v_BTJH"."""

        def written(name: str, old: jax.Array) -> jax.Array:
            tokens = new[name.replace("_BS", "_BT").replace("_BJS", "_BTJ")]
            if self.is_read:
                return members.over_rows(dense_decode.write_tokens, old, tokens, self._start_B)
            tokens = dense_decode.as_stored(jnp.moveaxis(tokens, 1, -2), old.dtype)
            return jax.lax.dynamic_update_slice_in_dim(old, tokens, 0, axis=old.ndim - 2)

        return {name: written(name, old) for name, old in layer.items()}

    def attend(self, layer: Layer, q_BTNH, q_rope_BTNR=None, *, scale: float) -> jax.Array:
        """Attention over a layer that was written, [B, T, N, H]; with the rope part, absorbed MLA's, where H is C."""
        ropes = {}
        if q_rope_BTNR is None:
            k_BJSH, v_BJSU = layer["k_BJSH"], layer["v_BJSH"]
        else:
            k_BJSH, v_BJSU = layer["latent_BSC"][:, None], None
            ropes = {"q_rope_BTNR": q_rope_BTNR, "k_rope_BSR": layer["rope_BSR"]}

        def attend(q_BTNH, k_BJSH, v_BJSU, start_B, ropes):
            return dense_decode.decode_attention(q_BTNH, k_BJSH, v_BJSU, start_B, scale=scale, **ropes)

        return members.over_rows(attend, q_BTNH, k_BJSH, v_BJSU, self._start_B, ropes)

    def advanced(self, layers: tuple[Layer, ...]) -> DenseCache:
        """The cache that holds the new tokens too."""
        return DenseCache(layers=layers, lengths_B=self.cache.lengths_B + self.counts_B)


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


@dataclasses.dataclass(frozen=True)
class PagedSlots:
    """``DenseSlots`` of a paged cache; ``counts_B`` of each sequence's tokens are no padding."""

    cache: PagedCache
    counts_B: jax.Array
    is_read: bool

    @property
    def layers(self):
        return self.cache.layers

    def write(self, layer, new):
        places = {"page_table_BI": self.cache.page_table_BI, "start_B": self.cache.lengths_B}
        return paged_decode.write_pages(layer, new, **places, counts_B=self.counts_B, batch_axes=self.cache.batch_axes)

    def attend(self, layer, q_BTNH, q_rope_BTNR=None, *, scale):
        lengths_B = jnp.where(self.counts_B > 0, self.cache.lengths_B + self.counts_B, 0)  # else nothing is read
        options = {"page_table_BI": self.cache.page_table_BI, "lengths_B": lengths_B, "scale": scale}
        options["batch_axes"] = self.cache.batch_axes
        if q_rope_BTNR is None:
            return paged_decode.gqa_decode(q_BTNH, layer, **options)
        return paged_decode.mla_decode(q_BTNH, q_rope_BTNR, layer, **options)

    def advanced(self, layers):
        return dataclasses.replace(self.cache, layers=layers, lengths_B=self.cache.lengths_B + self.counts_B)


Cache = DenseCache | PagedCache
Slots = DenseSlots | PagedSlots
"""Attention uses either without knowing which."""
