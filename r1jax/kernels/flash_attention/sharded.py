"""The TPU kernel over sequences and heads: no device needs anything of another.

Heads are split where the axis divides the key heads too, so that the query heads of a key head stay together. Queries and
keys of one sequence stay on one device: there is no ring over the axis "sequence".
"""

import functools

from jax.sharding import PartitionSpec as P

from r1jax.kernels import shards
from r1jax.kernels.flash_attention import pallas_tpu


def flash_attention(
    q_BTNH, k_BSJH, v_BSJU, *, q_segments_BT, kv_segments_BS, scale: float, q_offset=0, q_rope_BTNR=None,
    k_rope_BSR=None, interpret=False,
):  # fmt: skip
    """See ``r1jax.kernels.flash_attention.flash_attention``; the kernel itself where there is no mesh to split over."""
    kernel = functools.partial(pallas_tpu.flash_attention, scale=scale, interpret=interpret)
    is_static = isinstance(q_offset, int)

    def part(q, k, v, q_segments, kv_segments, q_rope, k_rope, offset):
        segments = {"q_segments_BT": q_segments, "kv_segments_BS": kv_segments}
        ropes = {"q_rope_BTNR": q_rope, "k_rope_BSR": k_rope}
        return kernel(q, k, v, **segments, **ropes, q_offset=q_offset if is_static else offset)

    offset = None if is_static else q_offset
    arrays = (q_BTNH, k_BSJH, v_BSJU, q_segments_BT, kv_segments_BS, q_rope_BTNR, k_rope_BSR, offset)
    mesh = shards.mesh_to_split()
    if mesh is None:
        return part(*arrays)
    batch, heads = shards.mesh_axes(("batch", "heads"), (q_BTNH.shape[0], k_BSJH.shape[2]), mesh)
    by_head, whole = P(batch, None, heads, None), P(batch, None)
    in_specs = (by_head, by_head, by_head, whole, whole, by_head, P(batch, None, None), P())
    return shards.run(part, arrays, in_specs=in_specs, out_specs=by_head)
