import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.ops.tpu.paged_attention import paged_attention

from r1jax.kernels.named_shapes import SHAPES
from r1jax.kernels.paged_decode import gqa_decode, shapes, write_pages
from r1jax.kernels.paged_decode.pages import init_pages
from tests.kernels.interpreter import STRICT, races_found
from tests.kernels.shape_arrays import decode_arrays
from tests.kernels.test_flash_attention import attention_numpy
from tests.kernels.test_mla_decode import LENGTHS
from tests.kernels.tpu_aot import check_kernels, compile_for, tpu_compile

pytestmark = pytest.mark.usefixtures("quick_compilation")


def make_cache(lengths, pages_per_sequence, *, page_size=128, kv_heads=2, head_dim=16):
    """(pages, table, keys, values): pages in scrambled order; slots that no sequence owns hold large finite numbers."""
    rng = np.random.default_rng(0)
    batch, longest = len(lengths), pages_per_sequence * page_size
    num_pages = batch * pages_per_sequence + 3
    table = rng.permutation(num_pages)[: batch * pages_per_sequence].reshape(batch, -1).astype(np.int32)
    k, v = (rng.normal(size=(batch, longest, kv_heads, head_dim)).astype(np.float32) for _ in range(2))
    pool = np.full((num_pages, kv_heads, page_size, 2 * head_dim), 1e6, np.float32)
    for b, length in enumerate(lengths):
        for t in range(length):
            pool[table[b, t // page_size], :, t % page_size] = np.concatenate([k[b, t], v[b, t]], axis=-1)
    return {"kv_WJSA": pool}, table, k, v


def decode_numpy(q, k, v, lengths, *, scale):
    """Each sequence alone through the oracle of flash_attention; 0 where a query sees nothing."""
    out = []
    for b, length in enumerate(lengths):
        one = np.ones((1, q.shape[1]), int), np.ones((1, length), int)
        keys, values = k[b : b + 1, :length], v[b : b + 1, :length]
        out.append(attention_numpy(q[b : b + 1], keys, values, *one, scale=scale, offset=length - q.shape[1])[0])
    return np.nan_to_num(np.array(out))


def make_queries(num_queries, batch, heads=4, head_dim=16):
    return np.random.default_rng(1).normal(size=(batch, num_queries, heads, head_dim)).astype(np.float32)


@pytest.mark.parametrize("num_queries", [1, 3])
def test_equals_numpy_over_scrambled_pages_of_ragged_sequences(num_queries):
    pages, table, k, v = make_cache(LENGTHS, 3)
    q = make_queries(num_queries, len(LENGTHS))
    want = decode_numpy(q, k, v, LENGTHS, scale=0.3)
    options = {"page_table_BI": table, "lengths_B": np.array(LENGTHS, np.int32), "scale": 0.3}
    for implementation in ("reference", "pallas_tpu"):
        decode = jax.jit(
            lambda *a, name=implementation: gqa_decode(
                *a, **options, implementation=name, interpret=name == "pallas_tpu"
            )
        )
        got = np.asarray(decode(q, pages))
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5, err_msg=implementation)
        assert not got[4].any()  # the empty sequence: exactly 0


def test_several_steps_and_no_read_of_what_was_not_written(monkeypatch):
    monkeypatch.setattr(shapes, "MAX_PAGES", 2)
    pages, table, k, v = make_cache([300, 5], 3)
    q = make_queries(2, 2)
    options = {"page_table_BI": table, "lengths_B": np.array([300, 5], np.int32), "scale": 0.3}
    got = gqa_decode(q, pages, **options, implementation="pallas_tpu", interpret=STRICT)
    assert not races_found()
    np.testing.assert_allclose(got, decode_numpy(q, k, v, [300, 5], scale=0.3), rtol=2e-5, atol=2e-5)


def test_bfloat16_stays_close_to_float64():
    """Weights and outputs are rounded to bfloat16: off by at most 2⁻⁸ + 2⁻⁹ of the largest value."""
    pages, table, k, v = make_cache([200], 2)
    k, v, q = (np.asarray(jnp.asarray(a, jnp.bfloat16), np.float64) for a in (k, v, make_queries(2, 1)))
    pages = {name: jnp.asarray(a, jnp.bfloat16) for name, a in pages.items()}
    options = {"page_table_BI": table, "lengths_B": np.array([200], np.int32), "scale": 0.3}
    got = gqa_decode(jnp.asarray(q, jnp.bfloat16), pages, **options, implementation="pallas_tpu", interpret=True)
    assert got.dtype == jnp.bfloat16
    error = np.abs(np.asarray(got, np.float64) - decode_numpy(q, k, v, [200], scale=0.3))
    assert error.max() <= (2**-8 + 2**-9) * np.abs(v[0, :200]).max()


def test_written_tokens_are_where_the_table_says():
    want, table, k, v = make_cache([130, 0, 256], 2)
    pages = init_pages(num_pages=len(want["kv_WJSA"]), page_size=128, kv_heads=2, head_dim=16, dtype=jnp.float32)
    write = jax.jit(write_pages)
    for start, count in ((0, 127), (127, 3)):  # the second crosses a page
        new = {"k_BTJH": k[:, start : start + count], "v_BTJH": v[:, start : start + count]}
        pages = write(pages, new, page_table_BI=table, start_B=np.array([start, -1, start], np.int32))
    new = {"k_BTJH": k[:, 130:], "v_BTJH": v[:, 130:]}
    pages = write(pages, new, page_table_BI=table, start_B=np.array([-1, -1, 130], np.int32))
    np.testing.assert_array_equal(pages["kv_WJSA"], np.where(want["kv_WJSA"] == 1e6, 0, want["kv_WJSA"]))


def test_equals_jax_paged_attention():
    """Pages hold what bfloat16 can: JAX's kernel rounds them to it."""
    lengths = [300, 1, 256]
    pages, table, _, _ = make_cache(lengths, 3)
    pages = {name: np.asarray(jnp.asarray(a, jnp.bfloat16), np.float32) for name, a in pages.items()}
    q = make_queries(1, 3)
    options = {"page_table_BI": table, "lengths_B": np.array(lengths, np.int32), "scale": 0.3}
    got = gqa_decode(q, pages, **options, implementation="pallas_tpu", interpret=True)
    k_pages, v_pages = np.split(pages["kv_WJSA"].swapaxes(0, 1), 2, axis=-1)
    with pltpu.force_tpu_interpret_mode():
        want = paged_attention(
            jnp.asarray(q[:, 0] * 0.3), jnp.asarray(k_pages), jnp.asarray(v_pages), jnp.asarray(options["lengths_B"]),
            jnp.asarray(table), pages_per_compute_block=1,
        )  # fmt: skip
    np.testing.assert_allclose(got[:, 0], want, rtol=2e-5, atol=2e-5)


def test_cost_is_what_reading_every_page_once_takes():
    cost = SHAPES["gqa_decode"]["qwen2.5_7b_4k"].passes("v5e")[""]
    # 32 sequences of 4096 tokens: keys and values of 4 heads of 128 in two bytes; 28 heads of queries and output.
    assert cost.bytes_accessed == 32 * (4096 * 2 * 4 * 128 * 2 + 2 * 28 * 128 * 2)
    assert cost.flops == 32 * 4096 * 28 * 2 * (128 + 128)
    # Heads of 64: pools of keys and of values apart would fill half of each tile's lanes, so twice the bytes.
    assert SHAPES["gqa_decode"]["smollm2_2k"].passes("v5e")[""].bytes_accessed // 10**6 == 50


def test_what_is_not_supported_is_named():
    pages, table, _, _ = make_cache([5], 1)
    q = make_queries(1, 1)
    options = {"page_table_BI": table, "lengths_B": np.array([5], np.int32), "scale": 1.0, "interpret": True}

    def decode(*args, implementation="pallas_tpu", **more):
        return gqa_decode(*args, **(options | more), implementation=implementation)

    with pytest.raises(ValueError, match=r"no implementation 'xla'.*reference"):
        decode(q, pages, implementation="xla")
    with pytest.raises(ValueError, match="3 query heads for 2 key heads"):
        decode(q[:, :, :3], pages)
    with pytest.raises(ValueError, match=r"needs a TPU.*'cpu'.*interpret=True"):
        decode(q, pages, interpret=False)
    with pytest.raises(ValueError, match="bfloat16 or float32"):
        decode(q.astype(jnp.bfloat16), pages)
    with pytest.raises(ValueError, match="multiple of 128 tokens, not 100"):
        decode(q, {"kv_WJSA": pages["kv_WJSA"][:, :, :100]})


@tpu_compile
@pytest.mark.parametrize("name", SHAPES["gqa_decode"])
def test_compiles_for_tpus(generation, name):
    shape = SHAPES["gqa_decode"][name]

    def decode(positional, keywords):
        return gqa_decode(**positional, **keywords, scale=0.1)

    compiled = compile_for(generation, decode, *decode_arrays(shape))
    (kernel,) = check_kernels(generation, compiled, ["gqa_decode"])
    cost = shape.passes(generation)[""]
    assert (kernel.flops, kernel.bytes_accessed) == (cost.flops, cost.bytes_accessed)
