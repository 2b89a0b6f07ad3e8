"""Either implementation on a mesh: over sequences, with their pages, and over query heads; the latent is whole for all heads."""

import jax
from jax.sharding import PartitionSpec as P

from r1jax.kernels import paged_parts, shards
from r1jax.kernels.mla_decode import reference


def mla_decode(function, q_latent_BTNC, q_rope_BTNR, pages, *, page_table_BI, lengths_B, batch_axes) -> jax.Array:
    """``function``, one of the implementations, of each device's part; of everything where there is no mesh to split over."""

    def part(pages, page_table_BI, q_latent_BTNC, q_rope_BTNR, lengths_B):
        return function(q_latent_BTNC, q_rope_BTNR, pages, page_table_BI=page_table_BI, lengths_B=lengths_B)

    mesh = shards.mesh_to_split()
    if mesh is None:
        return part(pages, page_table_BI, q_latent_BTNC, q_rope_BTNR, lengths_B)
    (heads,) = shards.mesh_axes(("heads",), q_latent_BTNC.shape[2:3], mesh, role="rollout")
    by_head = P(batch_axes, None, heads, None)
    return paged_parts.run(
        part, pages, page_table_BI, (q_latent_BTNC, q_rope_BTNR, lengths_B), batch_axes=batch_axes,
        page_specs=paged_parts.page_specs(pages, batch_axes, mesh), in_specs=(by_head, by_head, P(batch_axes)),
        out_specs=by_head,
    )  # fmt: skip


def write_pages(pages, new, *, page_table_BI, start_B, counts_B=None, batch_axes=()) -> dict[str, jax.Array]:
    """See ``reference.write_pages``; ``batch_axes`` as for ``mla_decode``."""
    places = {"page_table_BI": page_table_BI, "start_B": start_B, "counts_B": counts_B}
    return paged_parts.write(reference.write_pages, pages, new, **places, batch_axes=batch_axes)
