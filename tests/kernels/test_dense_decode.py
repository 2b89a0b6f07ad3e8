"""Attention over a dense cache with a length a sequence, against the masked softmax over all slots; and the write."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels import dense_decode
from r1jax.kernels.flash_attention.reference import attention, with_rope

SCALE = 0.3


@pytest.fixture(params=[None, "a mesh"], ids=["in blocks", "all at once"], autouse=True)
def mesh(request, monkeypatch):
    monkeypatch.setattr(dense_decode.dispatch, "mesh_to_split", lambda: request.param)


def _normal(seed: int, *shape: int, dtype=jnp.float32) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def _stored(x: jax.Array) -> jax.Array:
    return dense_decode.as_stored(x, dense_decode.storage_dtype(x.dtype))


def _expected(q_BTNH, k_BJSH, v_BJSU, lengths_B):
    last_BT = lengths_B[:, None] + jnp.arange(q_BTNH.shape[1])
    mask_BTS = jnp.arange(k_BJSH.shape[2]) <= last_BT[..., None]
    return attention(q_BTNH, jnp.swapaxes(k_BJSH, 1, 2), jnp.swapaxes(v_BJSU, 1, 2), mask_BTS=mask_BTS, scale=SCALE)


def _lengths(batch: int, num_slots: int, num_queries: int) -> jax.Array:
    """Of all kinds: nothing seen, one slot, both sides of a block's end, all slots."""
    kinds = [-num_queries, 0, dense_decode.BLOCK - 1, dense_decode.BLOCK, num_slots - num_queries, 5]
    return jnp.asarray([min(kinds[row % len(kinds)], num_slots - num_queries) for row in range(batch)])


@pytest.mark.parametrize(
    ("batch", "num_queries", "num_slots"), [(1, 1, 150), (6, 3, 20), (dense_decode.ROWS + 3, 1, 150), (6, 3, 150)]
)
def test_the_same_as_the_masked_softmax(batch, num_queries, num_slots):
    lengths_B = _lengths(batch, num_slots, num_queries)
    q, k, v = (
        _normal(0, batch, num_queries, 6, 8),
        _normal(1, batch, 2, num_slots, 8),
        _normal(2, batch, 2, num_slots, 5),
    )
    out = jax.jit(functools.partial(dense_decode.decode_attention, scale=SCALE))(q, k, v, lengths_B)
    np.testing.assert_allclose(out, _expected(q, k, v, lengths_B), atol=2e-6)
    assert not out[lengths_B == -num_queries].any()


@pytest.mark.parametrize(("num_heads", "dtype"), [(4, jnp.float32), (1, jnp.bfloat16)])
def test_the_latent_is_key_and_value_of_all_heads(num_heads, dtype):
    batch, num_queries, num_slots = 5, 2, 150
    lengths_B = _lengths(batch, num_slots, num_queries)
    q, q_rope = (
        _normal(0, batch, num_queries, num_heads, 12, dtype=dtype),
        _normal(1, batch, num_queries, num_heads, 4, dtype=dtype),
    )
    latent, rope = _normal(2, batch, num_slots, 12, dtype=dtype), _normal(3, batch, num_slots, 4, dtype=dtype)
    out = dense_decode.decode_attention(
        q, _stored(latent)[:, None], None, lengths_B, scale=SCALE, q_rope_BTNR=q_rope, k_rope_BSR=_stored(rope)
    )
    q_both, k_both = with_rope(q, latent[:, :, None], q_rope, rope)
    expected = _expected(q_both, jnp.swapaxes(k_both, 1, 2), latent[:, None], lengths_B)
    tolerance = 2e-6 if dtype == jnp.float32 else 0.03
    np.testing.assert_allclose(out.astype(jnp.float32), expected.astype(jnp.float32), atol=tolerance)


def test_bfloat16_from_its_bits():
    batch, num_slots = 4, 150
    lengths_B = _lengths(batch, num_slots, 1)
    q = _normal(0, batch, 1, 6, 8, dtype=jnp.bfloat16)
    k, v = (_normal(seed, batch, 2, num_slots, 8, dtype=jnp.bfloat16) for seed in (1, 2))
    out = dense_decode.decode_attention(q, _stored(k), _stored(v), lengths_B, scale=SCALE)
    assert out.dtype == jnp.bfloat16 and _stored(k).dtype == jnp.uint16
    expected = _expected(q, k, v, lengths_B)
    np.testing.assert_allclose(out.astype(jnp.float32), expected.astype(jnp.float32), atol=0.03)


@pytest.mark.parametrize(("heads", "dtype"), [((), jnp.float32), ((2,), jnp.bfloat16)])
def test_tokens_are_written_where_each_sequence_ends(dtype, heads):
    batch, num_tokens, num_slots, width = 4, 3, 10, 5
    start_B = np.array([0, 4, -1, 8])  # the third is idle, the last one runs over the end
    new = _normal(0, batch, num_tokens, *heads, width, dtype=dtype)
    old = _normal(1, batch, *heads, num_slots, width, dtype=dtype)
    written = dense_decode.write_tokens(_stored(old), new, jnp.asarray(start_B))
    expected = np.array(_stored(old))
    for row, start in enumerate(start_B):
        for token in range(num_tokens):
            if start >= 0 and start + token < num_slots:
                expected[row, ..., start + token, :] = _stored(new)[row, token]
    np.testing.assert_array_equal(written, expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_donated_loop_writes_in_place(dtype):
    shape = 4, 2, 640, 8
    cached, new = _stored(jnp.zeros(shape, dtype)), jnp.ones((4, 1, 2, 8), dtype)

    def steps(cached, start_B):
        def step(carry):
            count, cached = carry
            return count + 1, dense_decode.write_tokens(cached, new, start_B + count)

        return jax.lax.while_loop(lambda carry: carry[0] < 9, step, (0, cached))[1]

    compiled = jax.jit(steps, donate_argnums=0).lower(cached, jnp.zeros(4, jnp.int32)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < cached.nbytes / 4
