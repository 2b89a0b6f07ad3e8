"""The arrays of a call of a named shape, as ShapeDtypeStructs."""

import jax
import jax.numpy as jnp


def attention_arrays(shape) -> dict[str, jax.ShapeDtypeStruct]:
    """Arguments of ``flash_attention`` by name."""
    b, t, s, n, j = shape.batch, shape.queries, shape.keys, shape.heads, shape.kv_heads
    sizes = {
        "q_BTNH": (b, t, n, shape.head_dim),
        "k_BSJH": (b, s, j, shape.head_dim),
        "v_BSJU": (b, s, j, shape.value_dim),
    }
    if shape.rope_dim:
        sizes |= {"q_rope_BTNR": (b, t, n, shape.rope_dim), "k_rope_BSR": (b, s, shape.rope_dim)}
    arrays = {name: jax.ShapeDtypeStruct(size, jnp.dtype(shape.dtype)) for name, size in sizes.items()}
    segments = {"q_segments_BT": (b, t), "kv_segments_BS": (b, s)}
    return arrays | {name: jax.ShapeDtypeStruct(size, jnp.int32) for name, size in segments.items()}


def decode_arrays(shape) -> tuple[dict, dict]:
    """Positional and keyword arguments of ``gqa_decode`` or ``mla_decode``."""

    def array(*size, dtype=shape.dtype):
        return jax.ShapeDtypeStruct(size, jnp.dtype(dtype))

    queries = {n: array(shape.batch, shape.queries, shape.heads, width) for n, width in shape.query_dims.items()}
    pages = {name: array(shape.num_pages, *page) for name, page in shape.page_shapes.items()}
    table = array(shape.batch, shape.pages_per_sequence, dtype="int32")
    return queries | {"pages": pages}, {"page_table_BI": table, "lengths_B": array(shape.batch, dtype="int32")}
