import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels.named_shapes import SHAPES
from r1jax.kernels.paged_decode import mla_decode, pallas_tpu, shapes, write_pages
from r1jax.kernels.paged_decode.pages import init_pages, write_tokens
from tests.kernels.interpreter import STRICT, races_found
from tests.kernels.shape_arrays import decode_arrays
from tests.kernels.tpu_aot import check_kernels, compile_for, tpu_compile

pytestmark = pytest.mark.usefixtures("quick_compilation")

LENGTHS = [1, 128, 129, 300, 0, 384, 2]
"""One token, a full page, one more, the middle of a page, an empty sequence, all pages, fewer than the queries."""


def make_cache(lengths, pages_per_sequence, *, page_size=128, latent_dim=16, rope_dim=8):
    """(pages, table, tokens): sequences written token by token positions, into pages in scrambled order.

    Slots that no sequence owns hold large finite numbers: reading one shows.
    """
    rng = np.random.default_rng(0)
    batch, longest = len(lengths), pages_per_sequence * page_size
    num_pages = batch * pages_per_sequence + 3
    table = rng.permutation(num_pages)[: batch * pages_per_sequence].reshape(batch, -1).astype(np.int32)
    latent = rng.normal(size=(batch, longest, latent_dim)).astype(np.float32)
    rope = rng.normal(size=(batch, longest, rope_dim)).astype(np.float32)
    pages = {
        "latent_WSC": np.full((num_pages, page_size, latent_dim), 1e6, np.float32),
        "rope_WRS": np.full((num_pages, rope_dim, page_size), 1e6, np.float32),
    }
    for b, length in enumerate(lengths):
        for t in range(length):
            page, slot = table[b, t // page_size], t % page_size
            pages["latent_WSC"][page, slot] = latent[b, t]
            pages["rope_WRS"][page, :, slot] = rope[b, t]
    return pages, table, (latent, rope)


def decode_numpy(q_latent, q_rope, latent, rope, lengths, *, scale):
    """One query and head after the other, in float64; a query that sees nothing gives 0."""
    batch, num_queries, heads, _ = q_latent.shape
    out = np.zeros(q_latent.shape)
    for b in range(batch):
        for t in range(num_queries):
            seen = range(max(0, lengths[b] - num_queries + t + 1))
            for n in range(heads):
                keys = np.concatenate([latent[b, seen], rope[b, seen]], axis=-1).astype(np.float64)
                scores = scale * keys @ np.concatenate([q_latent[b, t, n], q_rope[b, t, n]])
                if len(scores):
                    weights = np.exp(scores - scores.max())
                    out[b, t, n] = weights / weights.sum() @ latent[b, seen]
    return out


def make_queries(num_queries, batch, heads=3, latent_dim=16, rope_dim=8):
    rng = np.random.default_rng(1)
    return [rng.normal(size=(batch, num_queries, heads, dim)).astype(np.float32) for dim in (latent_dim, rope_dim)]


@pytest.mark.parametrize("num_queries", [1, 3])
def test_equals_numpy_over_scrambled_pages_of_ragged_sequences(num_queries):
    pages, table, tokens = make_cache(LENGTHS, 3)
    queries = make_queries(num_queries, len(LENGTHS))
    want = decode_numpy(*queries, *tokens, LENGTHS, scale=0.3)
    options = {"page_table_BI": table, "lengths_B": np.array(LENGTHS, np.int32), "scale": 0.3}
    for implementation in ("reference", "pallas_tpu"):
        decode = jax.jit(
            lambda *a, name=implementation: mla_decode(
                *a, **options, implementation=name, interpret=name == "pallas_tpu"
            )
        )
        got = np.asarray(decode(*queries, pages))
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5, err_msg=implementation)
        assert not got[4].any()  # the empty sequence: exactly 0
        assert num_queries == 1 or not got[6, 0].any()  # two tokens, three queries: the first sees nothing


def test_several_steps_and_no_read_of_what_was_not_written(monkeypatch):
    monkeypatch.setattr(shapes, "MAX_PAGES", 2)  # 3 pages in 2 steps, the second with one page too many
    pages, table, tokens = make_cache([300, 5], 3)
    queries = make_queries(2, 2)
    options = {"page_table_BI": table, "lengths_B": np.array([300, 5], np.int32), "scale": 0.3}
    got = mla_decode(*queries, pages, **options, implementation="pallas_tpu", interpret=STRICT)
    assert not races_found()
    np.testing.assert_allclose(got, decode_numpy(*queries, *tokens, [300, 5], scale=0.3), rtol=2e-5, atol=2e-5)


def test_bfloat16_stays_close_to_float64():
    """Weights and outputs are rounded to bfloat16: off by at most 2⁻⁸ + 2⁻⁹ of the largest latent."""
    pages, table, _ = make_cache([200], 2)
    pages = {name: jnp.asarray(a, jnp.bfloat16) for name, a in pages.items()}
    queries = [jnp.asarray(q, jnp.bfloat16) for q in make_queries(1, 1)]
    exact = {name: np.asarray(a[table[0]], np.float64) for name, a in pages.items()}
    tokens = exact["latent_WSC"].reshape(1, 256, -1), exact["rope_WRS"].swapaxes(1, 2).reshape(1, 256, -1)
    want = decode_numpy(*(np.asarray(q, np.float64) for q in queries), *tokens, [200], scale=0.3)
    options = {"page_table_BI": table, "lengths_B": np.array([200], np.int32), "scale": 0.3}
    got = mla_decode(*queries, pages, **options, implementation="pallas_tpu", interpret=True)
    assert got.dtype == jnp.bfloat16
    assert np.abs(np.asarray(got, np.float64) - want).max() <= (2**-8 + 2**-9) * np.abs(tokens[0][0, :200]).max()


def test_written_tokens_are_where_the_table_says():
    want, table, (latent, rope) = make_cache([130, 0, 256], 2)
    pages = init_pages(num_pages=len(want["latent_WSC"]), page_size=128, latent_dim=16, rope_dim=8, dtype=jnp.float32)
    write = jax.jit(write_pages)
    for start, count in ((0, 127), (127, 2), (129, 1)):  # the second crosses a page
        new = {"latent_BTC": latent[:, start : start + count], "rope_BTR": rope[:, start : start + count]}
        starts = np.array([start, -1, start], np.int32)
        pages = write(pages, new, page_table_BI=table, start_B=starts)
    new = {"latent_BTC": latent[:, 130:], "rope_BTR": rope[:, 130:]}
    pages = write(pages, new, page_table_BI=table, start_B=np.array([-5, -1, 130], np.int32))
    for name, array in pages.items():
        np.testing.assert_array_equal(array, np.where(want[name] == 1e6, 0, want[name]), err_msg=name)


@pytest.mark.parametrize("slot_dim", [1, 2])
def test_tokens_are_written_to_their_slots_and_nowhere_else(slot_dim):
    table, new = jnp.array([[7, 3], [1, 2], [0, 5]]), jnp.arange(1, 37).reshape(3, 6, 2)
    pool = jnp.full((9, 4, 2) if slot_dim == 1 else (9, 2, 4), 99)
    start, counts = jnp.array([3, -1, 2]), jnp.array([6, 6, 3])
    got = write_tokens(pool, new, slot_dim=slot_dim, page_table_BI=table, start_B=start, counts_B=counts)
    first = (got if slot_dim == 1 else got.swapaxes(1, 2))[..., 0]
    want = np.full((9, 4), 99)
    want[7, 3], want[3] = 1, [3, 5, 7, 9]  # position 8, the sixth token's, is past the table
    want[0, 2:], want[5, 0] = [25, 27], 29  # three of six
    np.testing.assert_array_equal(first, want)
    one = write_tokens(pool, new[:, :1], slot_dim=slot_dim, page_table_BI=table, start_B=start)
    places = np.argwhere(np.asarray(one if slot_dim == 1 else one.swapaxes(1, 2))[..., 0] != 99)
    np.testing.assert_array_equal(places, [[0, 2], [7, 3]])


def test_cost_is_what_reading_every_page_once_takes():
    shape = SHAPES["mla_decode"]["v3_4k"]
    cost = shape.passes("v5e")[""]
    # 32 sequences of 4096 tokens: 1152 bytes a token, and in a query and its output 128 heads of 576 + 512 numbers.
    assert cost.bytes_accessed == 32 * (4096 * 1152 + 128 * (576 + 512) * 2)
    assert cost.flops == 32 * 128 * 4096 * 2 * (576 + 512)
    table = np.arange(32, dtype=np.int32)
    specs = pallas_tpu.page_blocks((128, 512), count=8, page_size=128, pages_per_sequence=32)
    assert shape.pages_per_step == 8
    for length, pages in ((4096, 32), (4000, 32), (1025, 9), (1024, 8), (5, 8)):
        reads = [[int(spec.index_map(0, step, table, [length])[0]) for step in range(4)] for spec in specs]
        read = [[page for page, before in zip(r, [None, *r], strict=False) if page != before] for r in reads]
        # Each page once; a sequence of fewer pages than a step has repeats its last one.
        assert sum(map(len, read)) == pages
        assert {page for pages in read for page in pages} == set(range(-(-length // 128)))


def test_what_is_not_supported_is_named():
    pages, table, _ = make_cache([5], 1)
    queries = make_queries(1, 1)
    options = {"page_table_BI": table, "lengths_B": np.array([5], np.int32), "scale": 1.0, "interpret": True}

    def decode(*args, implementation="pallas_tpu", **more):
        return mla_decode(*args, **(options | more), implementation=implementation)

    with pytest.raises(ValueError, match=r"no implementation 'cuda'.*pallas_tpu"):
        decode(*queries, pages, implementation="cuda")
    with pytest.raises(ValueError, match=r"needs a TPU.*'cpu'.*interpret=True"):
        decode(*queries, pages, interpret=False)
    with pytest.raises(ValueError, match="bfloat16 or float32"):
        decode(queries[0].astype(jnp.bfloat16), queries[1], pages)
    with pytest.raises(ValueError, match="multiple of 128 tokens, not 64"):
        decode(*queries, {"latent_WSC": pages["latent_WSC"][:, :64], "rope_WRS": pages["rope_WRS"][..., :64]})
    with pytest.raises(ValueError, match="rope_dim in multiples of 8, not 6"):
        decode(queries[0], queries[1][..., :6], pages | {"rope_WRS": pages["rope_WRS"][:, :6]})
    with pytest.raises(ValueError, match="int32 page_table_BI"):
        decode(*queries, pages, lengths_B=np.array([5.0], np.float32))
    with pytest.raises(ValueError, match="longer pages or fewer sequences"):
        decode(*queries, pages, page_table_BI=np.zeros((1, 200_000), np.int32))


@tpu_compile
@pytest.mark.parametrize("name", SHAPES["mla_decode"])
def test_compiles_for_tpus(generation, name):
    shape = SHAPES["mla_decode"][name]

    def decode(positional, keywords):
        return mla_decode(**positional, **keywords, scale=0.1)

    compiled = compile_for(generation, decode, *decode_arrays(shape))
    (kernel,) = check_kernels(generation, compiled, ["mla_decode"])
    cost = shape.passes(generation)[""]
    assert (kernel.flops, kernel.bytes_accessed) == (cost.flops, cost.bytes_accessed)
