from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels import flash_attention as kernel
from r1jax.kernels.flash_attention import attention, attention_mask, flash_attention, xla
from tests.kernels.jaxprs import array_sizes


def attention_numpy(q, k, v, q_segments, kv_segments, q_prefixes=None, *, scale, offset=0):
    """One query and one head after the other, in float64; a query that sees nothing gives NaN."""
    batch, num_queries, heads, _ = q.shape
    per_kv_head = heads // k.shape[2]
    q_prefixes = np.zeros_like(q_segments) if q_prefixes is None else q_prefixes
    out = np.full((*q.shape[:3], v.shape[-1]), np.nan)
    for b in range(batch):
        for t in range(num_queries):
            seen = [
                s
                for s in range(k.shape[1])
                if s <= t + offset
                and kv_segments[b, s] > 0
                and kv_segments[b, s] in (q_segments[b, t], q_prefixes[b, t])
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
    np.testing.assert_array_equal(got[segments == 0], 0.0)  # rows of padding see nothing


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


def test_mask_of_segments_with_a_prefix_is_literal():
    """Three segments of which the last two go on from the first, then one by itself, and padding."""
    segments, prefixes = jnp.array([[1, 1, 2, 3, 3, 4, 0]]), jnp.array([[0, 0, 1, 1, 1, 0, 0]])
    want = [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(attention_mask(segments, segments, q_prefixes_BT=prefixes)[0].astype(int), want)


def packed_groups(batch, num_tokens, *, longest=9, seed=0):
    """(segments, prefixes), [batch, num_tokens] each: a prefix, one to three segments that go on from it, another prefix ...

    Padding at the end; some prefixes are empty, so that those segments have none.
    """
    rng = np.random.default_rng(seed)
    segments, prefixes = np.zeros((2, batch, num_tokens), np.int32)
    for row in range(batch):
        start, number, prefix = 0, 0, 0
        while start < num_tokens - num_tokens // 8:
            for child in range(rng.integers(2, 5)):
                length = rng.integers(0 if child == 0 else 1, longest + 1)
                number += length > 0
                prefix = number * (length > 0) if child == 0 else prefix
                place = slice(start, min(start + length, num_tokens))
                segments[row, place], prefixes[row, place] = number, prefix * (child > 0)
                start += length
    segments[:, num_tokens - num_tokens // 8 :] = prefixes[:, num_tokens - num_tokens // 8 :] = 0
    return segments, prefixes


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_segments_with_a_prefix_equal_numpy(implementation, monkeypatch):
    monkeypatch.setattr(xla, "_BLOCK", 8)
    q, k, v = make_inputs(45, 45)
    segments, prefixes = packed_groups(2, 45)
    assert (prefixes > 0).any(1).all() and ((segments > 0) & (prefixes == 0)).any(1).all()
    arrays = (a.astype(np.float32) for a in (q, k, v))
    options = {"q_segments_BT": segments, "kv_segments_BS": segments, "q_prefixes_BT": prefixes, "scale": 0.7}
    got = np.array(flash_attention(*arrays, **options, implementation=implementation))
    want = attention_numpy(q, k, v, segments, segments, prefixes, scale=0.7)
    np.testing.assert_allclose(got, np.nan_to_num(want), rtol=1e-5, atol=1e-5)


def test_bfloat16_scores_are_summed_in_float32():
    q, k = np.ones((1, 1, 1, 512), jnp.bfloat16), np.ones((1, 2, 1, 512), jnp.bfloat16)
    k[0, 1, 0, 0] = 0
    v = np.array([[[[1.0]], [[0.0]]]], jnp.bfloat16)
    mask = np.ones((1, 1, 2), bool)
    out = jax.jit(attention, static_argnames="scale")(q, k, v, mask_BTS=mask, scale=1.0)
    # 512 and 511: a bfloat16 score would round both to 512 and give 0.5.
    np.testing.assert_allclose(np.array(out, np.float32).item(), 1 / (1 + np.exp(-1)), atol=4e-3)


def make_packed(num_tokens, heads, kv_heads, dim, value_dim):
    rng = np.random.default_rng(1)
    shapes = [(2, num_tokens, heads, dim), (2, num_tokens, kv_heads, dim), (2, num_tokens, kv_heads, value_dim)]
    segments = np.sort(rng.integers(0, 4, (2, num_tokens)), axis=1)[:, ::-1]
    segments = np.where(segments > 0, 4 - segments, 0)  # 1 .. 3 in order, then padding
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes], segments


# tokens: one, fewer than a block, not a multiple of it, so many that spans hold several blocks
@pytest.mark.parametrize(
    ("num_tokens", "block", "spans", "heads"),
    [(1, 4, 8, (2, 1)), (3, 4, 8, (2, 2)), (13, 4, 8, (3, 1)), (21, 2, 3, (4, 2)), (16, 4, 1, (2, 1))],
)
def test_blocks_equal_the_reference_in_value_and_gradient(num_tokens, block, spans, heads, monkeypatch):
    monkeypatch.setattr(xla, "_BLOCK", block)
    monkeypatch.setattr(xla, "MAX_SPANS", spans)
    inputs, segments = make_packed(num_tokens, *heads, 6, 3)
    options = {"q_segments_BT": segments, "kv_segments_BS": segments, "scale": 0.4}
    dout = np.cos(np.arange(2 * num_tokens * heads[0] * 3)).reshape(2, num_tokens, heads[0], 3).astype(np.float32)

    @partial(jax.jit, static_argnames="implementation")
    def value_and_gradients(*arrays, implementation):
        out, pull = jax.vjp(lambda *a: flash_attention(*a, **options, implementation=implementation), *arrays)
        return out, *pull(dout)

    got = value_and_gradients(*inputs, implementation="xla")
    want = value_and_gradients(*inputs, implementation="reference")
    assert not np.asarray(got[0])[segments == 0].any()  # padding sees nothing: exactly 0
    for array, expected in zip(got, want, strict=True):
        np.testing.assert_allclose(array, expected, rtol=2e-5, atol=2e-6)


def test_blocks_never_hold_the_square_of_scores(monkeypatch):
    monkeypatch.setattr(xla, "_BLOCK", 8)
    inputs, segments = make_packed(64, 2, 1, 4, 4)

    def loss(*arrays):
        return flash_attention(
            *arrays, q_segments_BT=segments, kv_segments_BS=segments, scale=1.0, implementation="xla"
        ).sum()

    largest = max(array_sizes(jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(*inputs).jaxpr))
    assert largest <= 2 * 2 * 8 * 64 < 2 * 2 * 64 * 64


def test_default_is_the_reference_up_to_short_and_then_blocks(monkeypatch):
    monkeypatch.setattr(kernel, "SHORT", 8)
    monkeypatch.setattr(xla, "_BLOCK", 4)

    def traced(num_queries, implementation="auto"):
        (q, k, v), segments = make_packed(9, 2, 1, 4, 4)
        q, own = q[:, :num_queries], segments[:, :num_queries]  # of one sequence of keys: queries count, keys do not
        options = {"q_segments_BT": own, "kv_segments_BS": segments, "scale": 1.0, "implementation": implementation}
        return str(jax.make_jaxpr(lambda *arrays: flash_attention(*arrays, **options))(q, k, v))

    assert traced(8) == traced(8, "reference") != traced(8, "xla")
    assert traced(9) == traced(9, "xla") != traced(9, "reference")


def test_unknown_implementation_and_heads_that_do_not_divide_are_named():
    (q, k, v), segments = make_packed(3, 3, 2, 4, 4)
    options = {"q_segments_BT": segments, "kv_segments_BS": segments, "scale": 1.0}
    with pytest.raises(ValueError, match="3 query heads for 2 key heads"):
        flash_attention(q, k, v, **options)
    with pytest.raises(ValueError, match=r"no implementation 'cuda'.*reference"):
        flash_attention(q, k[:, :, :1], v[:, :, :1], **options, implementation="cuda")
