"""Attention of rows whose tokens are spread over the mesh's "sequence" axis: keys are gathered, queries stay where they
are.

What is gathered is what attention caches: MLA's latent and shared rotated key, 576 numbers a token in V3, from which
each device makes its heads' keys and values again, or GQA's keys and values. V3 at 65,536 tokens in bfloat16: 75 MB a
layer and row, and a second time in the backward pass, whose gradient goes home by a reduce-scatter. Making all keys and
values on each of n devices is work that is done n times: for V3 at 65,536 tokens and n = 8, a tenth of the attention
itself.

Tokens are cut into consecutive parts, and under a causal mask the last part would have most to do, (2n − 1)/n of the
mean. So each device keeps the first half of its queries and swaps the second for that of the device at the mirrored
place: of 2n pieces device i has 2i and 2(n − i) − 1, which see the same number of keys on every device. Segments are
gathered with the keys, prefixes go with the queries and positions are in the angles that were applied before, so packed
rows may be cut anywhere.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from r1jax.sharding import TOKENS, partition_spec

Named = dict[str, tuple[jax.Array, tuple[str | None, ...]]]
"""Arrays with their logical axes."""


def ids_of(segments_BT: jax.Array, prefixes_BT: jax.Array | None) -> tuple[Named, Named]:
    """The ids by which attention masks, of queries and of keys: their segments, and the queries' prefixes where there are some."""
    keys: Named = {"segments": (segments_BT, TOKENS)}
    queries: Named = keys if prefixes_BT is None else keys | {"prefixes": (prefixes_BT, TOKENS)}
    return queries, keys


def mask_options(queries: dict[str, jax.Array], keys: dict[str, jax.Array]) -> dict[str, jax.Array | None]:
    """Those ids as ``flash_attention`` takes them."""
    return {
        "q_segments_BT": queries["segments"],
        "kv_segments_BS": keys["segments"],
        "q_prefixes_BT": queries.get("prefixes"),
    }


def attend_over_sequence(
    attend_to: Callable, queries: Named, keys: Named, weights: Named, *, is_training: bool
) -> jax.Array:
    """attend_to(keys, weights)(queries, q_offset) [B, T, N, U]; keys, weights and queries are dicts of arrays by name.

    In training, under a mesh whose "sequence" axis is more than 1, each device calls attend_to once, with all tokens of
    the keys and its part of the batch and of the heads, and what it gives with pieces of the queries; q_offset is the
    place of a piece's first query among the keys. Elsewhere both are called once, with everything and 0. Raises
    ValueError for a row that the axis does not divide.
    """
    mesh = jax.sharding.get_abstract_mesh()
    inputs = queries, keys, weights
    arrays = tuple({name: array for name, (array, _) in named.items()} for named in inputs)
    if not is_training or mesh.empty or mesh.shape.get("sequence", 1) == 1:
        return attend_to(*arrays[1:])(arrays[0], 0)
    num_tokens, size = next(iter(arrays[0].values())).shape[1], mesh.shape["sequence"]
    if num_tokens % size:
        raise ValueError(
            f"rows of {num_tokens} tokens do not divide over the mesh's 'sequence' axis of {size}; make the row a multiple of "
            f"{size}, or the axis smaller"
        )
    specs = tuple(
        {name: partition_spec(axes, array.shape, mesh, name=name) for name, (array, axes) in named.items()}
        for named in inputs
    )

    def on_device(queries, keys, weights):
        keys = jax.tree.map(lambda array: lax.all_gather(array, "sequence", axis=1, tiled=True), keys)
        return _in_mirrored_halves(attend_to(keys, weights), queries)

    # The result lies as the first of the queries: [B, T, N, ...].
    first = next(iter(specs[0].values()))
    return jax.shard_map(on_device, in_specs=specs, out_specs=first, check_vma=False)(*arrays)


def _in_mirrored_halves(attend: Callable, queries: dict[str, jax.Array]) -> jax.Array:
    """Attention of this device's part of the queries, half of it computed on the device at the mirrored place."""
    part, num_parts = lax.axis_index("sequence"), lax.axis_size("sequence")
    length = next(iter(queries.values())).shape[1]
    if length % 2:
        return attend(queries, part * length)
    half, mirror = length // 2, [(i, num_parts - 1 - i) for i in range(num_parts)]

    def swapped(tree):
        return jax.tree.map(lambda array: lax.ppermute(array, "sequence", mirror), tree)

    late = swapped({name: array[:, half:] for name, array in queries.items()})
    early = attend({name: array[:, :half] for name, array in queries.items()}, part * length)
    late = attend(late, (num_parts - 1 - part) * length + half)
    return jnp.concatenate([early, swapped(late)], axis=1)
