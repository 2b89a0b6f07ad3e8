"""Either implementation on a mesh: over sequences, with their pages, and over key heads with the query heads that share them."""

import jax
from jax.sharding import PartitionSpec as P

from r1jax.kernels import paged_parts, shards
from r1jax.kernels.gqa_decode import reference


def gqa_decode(function, q_BTNH, pages, *, page_table_BI, lengths_B, batch_axes) -> jax.Array:
    """``function``, one of the implementations, of each device's part; of everything where there is no mesh to split over."""

    def part(pages, page_table_BI, q_BTNH, lengths_B):
        return function(q_BTNH, pages, page_table_BI=page_table_BI, lengths_B=lengths_B)

    mesh = shards.mesh_to_split()
    if mesh is None:
        return part(pages, page_table_BI, q_BTNH, lengths_B)
    pool = paged_parts.page_specs(pages, batch_axes, mesh)
    by_head = P(batch_axes, None, pool["kv_WJSA"][1], None)
    return paged_parts.run(
        part, pages, page_table_BI, (q_BTNH, lengths_B), batch_axes=batch_axes, page_specs=pool,
        in_specs=(by_head, P(batch_axes)), out_specs=by_head,
    )  # fmt: skip


def write_pages(pages, new, *, page_table_BI, start_B, counts_B=None, batch_axes=()) -> dict[str, jax.Array]:
    """See ``reference.write_pages``; ``batch_axes`` as for ``gqa_decode``."""
    places = {"page_table_BI": page_table_BI, "start_B": start_B, "counts_B": counts_B}
    return paged_parts.write(reference.write_pages, pages, new, **places, batch_axes=batch_axes)
