from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.kernels.flash_attention import attention, attention_mask


def attention_numpy(q, k, v, q_segments, kv_segments, *, scale, offset=0):
    """One query and one head after the other, in float64; a query that sees nothing gives NaN."""
    batch, num_queries, heads, _ = q.shape
    per_kv_head = heads // k.shape[2]
    out = np.full((*q.shape[:3], v.shape[-1]), np.nan)
    for b in range(batch):
        for t in range(num_queries):
            seen = [
                s
                for s in range(k.shape[1])
                if s <= t + offset and kv_segments[b, s] > 0 and kv_segments[b, s] == q_segments[b, t]
            ]
            for n in range(heads):
                scores = np.array([scale * q[b, t, n] @ k[b, s, n // per_kv_head] for s in seen])
                if seen:
                    weights = np.exp(scores - scores.max())
                    out[b, t, n] = weights / weights.sum() @ v[b, seen, n // per_kv_head]
    return out


def make_inputs(num_queries, num_keys, heads=4, kv_heads=2, batch=2):
    rng = np.random.default_rng(0)
    q = rng.normal(size=(batch, num_queries, heads, 6))
    k = rng.normal(size=(batch, num_keys, kv_heads, 6))
    v = rng.normal(size=(batch, num_keys, kv_heads, 3))
    return q, k, v


@partial(jax.jit, static_argnames="scale")
def masked_attention(q, k, v, q_segments, kv_segments, offset, *, scale):
    mask_BTS = attention_mask(q_segments, kv_segments, q_offset=offset)
    return attention(q, k, v, mask_BTS=mask_BTS, scale=scale)


def run(q, k, v, q_segments, kv_segments, *, scale, offset=0):
    arrays = (a.astype(np.float32) for a in (q, k, v))
    return np.array(masked_attention(*arrays, q_segments, kv_segments, offset, scale=scale))


def test_packed_segments_and_grouped_heads_equal_numpy():
    q, k, v = make_inputs(7, 7)
    segments = np.array([[1, 1, 1, 2, 2, 0, 0], [0, 0, 3, 3, 3, 3, 3]])
    got = run(q, k, v, segments, segments, scale=0.7)
    want = attention_numpy(q, k, v, segments, segments, scale=0.7)
    np.testing.assert_array_equal(np.isnan(want).any((2, 3)), segments == 0)
    np.testing.assert_allclose(got[segments > 0], want[segments > 0], rtol=1e-5, atol=1e-6)
    assert np.isfinite(got).all()  # rows of padding see nothing, and are finite all the same


def test_offset_places_the_queries_after_the_cached_keys():
    q, k, v = make_inputs(2, 9)
    kv_segments = np.array([[0, 0, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1, 0, 0]])
    q_segments = np.ones((2, 2), int)
    got = run(q, k, v, q_segments, kv_segments, scale=0.3, offset=5)
    np.testing.assert_allclose(
        got, attention_numpy(q, k, v, q_segments, kv_segments, scale=0.3, offset=5), rtol=1e-5, atol=1e-6
    )
    changed = k.copy()
    changed[:, 6] += 1.0
    moved = np.abs(run(q, changed, v, q_segments, kv_segments, scale=0.3, offset=5) - got).max((0, 2, 3))
    assert moved[0] == 0 and moved[1] > 1e-3  # slot 6 is the future of the first query, the second one's own


def test_mask_is_literal():
    mask = attention_mask(jnp.array([[1, 1, 2, 0]]), jnp.array([[1, 1, 2, 0]]))
    np.testing.assert_array_equal(mask[0].astype(int), [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])


def test_bfloat16_scores_are_summed_in_float32():
    q, k = np.ones((1, 1, 1, 512), jnp.bfloat16), np.ones((1, 2, 1, 512), jnp.bfloat16)
    k[0, 1, 0, 0] = 0
    v = np.array([[[[1.0]], [[0.0]]]], jnp.bfloat16)
    mask = np.ones((1, 1, 2), bool)
    out = jax.jit(attention, static_argnames="scale")(q, k, v, mask_BTS=mask, scale=1.0)
    # 512 and 511: a bfloat16 score would round both to 512 and give 0.5.
    np.testing.assert_allclose(np.array(out, np.float32).item(), 1 / (1 + np.exp(-1)), atol=4e-3)
