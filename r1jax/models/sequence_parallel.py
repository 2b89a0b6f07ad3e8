"""Attention of rows whose tokens are spread over the mesh's "sequence" axis: keys are gathered, queries stay where they are.

What is gathered is what attention caches: MLA's latent and shared rotated key, 576 numbers a token in V3, from which each device
makes its heads' keys and values again, or GQA's keys and values. V3 at 65,536 tokens in bfloat16: 75 MB a layer and row, and
a second time in the backward pass, whose gradient goes home by a reduce-scatter. Making all keys and values on each of n
devices is work that is done n times: for V3 at 65,536 tokens and n = 8, a tenth of the attention itself.

Queries are cut into consecutive parts, so that under a causal mask the last device has most to do. Segments are gathered with the
keys, positions are in the angles that were applied before, so packed rows may be cut anywhere.
"""

from collections.abc import Callable

import jax
from jax import lax

from r1jax.sharding import partition_spec

Named = dict[str, tuple[jax.Array, tuple[str | None, ...]]]
"""Arrays with their logical axes."""


def attend_over_sequence(
    attend: Callable[..., jax.Array], queries: Named, keys: Named, weights: Named, *, is_training: bool
) -> jax.Array:
    """attend(queries, keys, weights, q_offset) [B, T, N, U], where queries, keys and weights are dicts of arrays by name.

    In training, under a mesh whose "sequence" axis is more than 1, each device calls it with its own part of the queries, of the
    batch and of the heads, and with all tokens of the keys; q_offset is the place of its first query among them. Elsewhere
    it is called once, with everything and 0. Raises ValueError for a row that the axis does not divide.
    """
    mesh = jax.sharding.get_abstract_mesh()
    inputs = queries, keys, weights
    arrays = tuple({name: array for name, (array, _) in named.items()} for named in inputs)
    if not is_training or mesh.empty or mesh.shape.get("sequence", 1) == 1:
        return attend(*arrays, 0)
    _check_divides(queries, mesh)
    specs = tuple(
        {name: partition_spec(axes, array.shape, mesh, name=name) for name, (array, axes) in named.items()}
        for named in inputs
    )

    def on_device(queries, keys, weights):
        keys = jax.tree.map(lambda array: lax.all_gather(array, "sequence", axis=1, tiled=True), keys)
        num_queries = jax.tree.leaves(queries)[0].shape[1]
        return attend(queries, keys, weights, lax.axis_index("sequence") * num_queries)

    # The result lies as the first of the queries: [B, T, N, ...].
    first = next(iter(specs[0].values()))
    return jax.shard_map(on_device, in_specs=specs, out_specs=first, check_vma=False)(*arrays)


def _check_divides(queries: Named, mesh) -> None:
    name, (array, _) = next(iter(queries.items()))
    if array.shape[1] % mesh.shape["sequence"]:
        raise ValueError(
            f"{name}: rows of {array.shape[1]} tokens do not divide over the mesh's 'sequence' axis of {mesh.shape['sequence']}; "
            f"make the row a multiple of {mesh.shape['sequence']}, or the axis smaller"
        )
