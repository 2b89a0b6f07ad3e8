import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask

from r1jax.kernels import hardware
from r1jax.kernels.flash_attention import attention_mask, flash_attention, pallas_tpu, shapes, with_rope
from r1jax.kernels.flash_attention.shapes import AttentionShape, Blocks
from r1jax.kernels.named_shapes import SHAPES
from tests.kernels.interpreter import STRICT, races_found
from tests.kernels.oracle import gradients_float64
from tests.kernels.shape_arrays import attention_arrays
from tests.kernels.test_flash_attention import attention_numpy, packed_groups
from tests.kernels.tpu_aot import check_kernels, compile_for, tpu_compile

pytestmark = pytest.mark.usefixtures("quick_compilation")


def make_shape(queries, keys, heads, kv_heads, rope_dim=0, *, batch=1, head_dim=16, value_dim=8, **fields):
    return AttentionShape(
        batch=batch, queries=queries, keys=keys, heads=heads, kv_heads=kv_heads, head_dim=head_dim, value_dim=value_dim,
        rope_dim=rope_dim, **{"dtype": "float32"} | fields,
    )  # fmt: skip


def make_inputs(shape, *, offset=0):
    """(float arrays, segments) by name: segments packed in order with padding at the end, and one query that sees nothing."""
    rng = np.random.default_rng(0)
    arrays = {
        n: rng.normal(size=a.shape).astype(a.dtype) for n, a in attention_arrays(shape).items() if a.dtype != jnp.int32
    }
    kv_segments = np.sort(rng.integers(0, 5, (shape.batch, shape.keys)), axis=1)[:, ::-1]
    kv_segments = np.where(kv_segments > 0, 5 - kv_segments, 0)
    kv_segments[:, 0] = 1
    q_segments = kv_segments[:, offset : offset + shape.queries].copy()
    if shape.queries > 1:
        q_segments[0, 1] = 9
    if shape.has_prefixes:
        kv_segments, prefixes = packed_groups(shape.batch, shape.keys, longest=shape.keys // 8)
        q_segments, q_prefixes = (ids[:, offset : offset + shape.queries].copy() for ids in (kv_segments, prefixes))
        q_segments[0, 1], q_prefixes[0, 1] = 9999, 0
        segments = {"q_segments_BT": q_segments, "kv_segments_BS": kv_segments, "q_prefixes_BT": q_prefixes}
        return arrays, segments
    segments = {"q_segments_BT": q_segments, "kv_segments_BS": kv_segments}
    return arrays, {name: array.astype(np.int32) for name, array in segments.items()}


REFERENCE = functools.partial(flash_attention, implementation="reference")
XLA = functools.partial(flash_attention, implementation="xla")


def value_and_gradients(implementation, arrays, segments, *, q_offset=0, traced=False, **options):
    """{"out", and the gradient of each array} with a cotangent that is the same for every implementation."""

    @jax.jit
    def run(arrays, traced_offset):
        def attend(arrays):
            rest = dict(arrays)
            qkv = [rest.pop(name) for name in ("q_BTNH", "k_BSJH", "v_BSJU")]
            offset = traced_offset if traced else q_offset
            return implementation(*qkv, **segments, **rest, scale=0.3, q_offset=offset, **options)

        out, pull = jax.vjp(attend, arrays)
        dout = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape).astype(out.dtype)
        return {"out": out} | pull(dout)[0]

    return run(arrays, jnp.int32(q_offset))


def check_equal(got, want):
    assert got.keys() == want.keys()
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, rtol=2e-5, atol=2e-5, err_msg=name)


CASES = {
    "one token": (make_shape(1, 1, 1, 1), Blocks(128, 128, 1), 0, False),
    "mla, two heads side by side": (make_shape(300, 300, 4, 4, rope_dim=8), Blocks(128, 128, 2), 0, False),
    "two blocks of heads share a key head": (make_shape(130, 130, 2, 1, batch=2), Blocks(128, 128, 1), 0, False),
    "chunk at a traced offset": (make_shape(140, 300, 2, 2, rope_dim=8), Blocks(128, 256, 1), 99, True),
    "chunk at a known offset": (make_shape(140, 300, 4, 2), Blocks(256, 128, 4), 99, False),
    "prefixes": (make_shape(600, 600, 2, 1, batch=2, has_prefixes=True), Blocks(128, 128, 2), 0, False),
    "mla, prefixes": (make_shape(300, 300, 2, 2, rope_dim=8, has_prefixes=True), Blocks(128, 256, 2), 0, False),
    "chunk with prefixes": (make_shape(140, 300, 2, 2, has_prefixes=True), Blocks(128, 128, 2), 99, True),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference_in_value_and_gradient(case):
    shape, blocks, offset, traced = CASES[case]
    arrays, segments = make_inputs(shape, offset=offset)
    options = {"q_offset": offset, "traced": traced}
    got = value_and_gradients(pallas_tpu.flash_attention, arrays, segments, blocks=blocks, interpret=True, **options)
    check_equal(got, value_and_gradients(REFERENCE, arrays, segments, **options))
    padding = segments["q_segments_BT"] == 0
    assert not np.asarray(got["out"])[padding].any() and not np.asarray(got["q_BTNH"])[padding].any()
    if shape.queries > 1:  # the query of a segment that has no key
        assert not np.asarray(got["out"])[0, 1].any() and not np.asarray(got["q_BTNH"])[0, 1].any()


@pytest.mark.parametrize("has_prefixes", [False, True])
def test_xla_takes_offsets_and_rope_parts(has_prefixes):
    shape = make_shape(140, 300, 4, 4, rope_dim=8, has_prefixes=has_prefixes)
    arrays, segments = make_inputs(shape, offset=99)
    want = value_and_gradients(REFERENCE, arrays, segments, q_offset=99)
    for traced in (False, True):
        got = value_and_gradients(XLA, arrays, segments, q_offset=99, traced=traced)
        check_equal(got, want)


def test_reads_nothing_that_was_not_written_and_has_no_races():
    arrays, segments = make_inputs(make_shape(200, 200, 2, 2, rope_dim=8))
    options = {"blocks": Blocks(128, 128, 2), "interpret": STRICT}
    got = value_and_gradients(pallas_tpu.flash_attention, arrays, segments, **options)
    assert not races_found()
    check_equal(got, value_and_gradients(REFERENCE, arrays, segments))


def attention_float64(q_BTNH, k_BSJH, v_BSJU, segments):
    """All scores at once, in the type of the arrays; a query that sees nothing gives 0."""
    seen_BTS = attention_mask(*segments)
    k_BSNH, v_BSNU = (jnp.repeat(a, q_BTNH.shape[2] // a.shape[2], axis=2) for a in (k_BSJH, v_BSJU))
    scores_BNTS = jnp.where(seen_BTS[:, None], 0.3 * jnp.einsum("btnh,bsnh->bnts", q_BTNH, k_BSNH), -1e30)
    out_BTNU = jnp.einsum("bnts,bsnu->btnu", jax.nn.softmax(scores_BNTS), v_BSNU)
    return jnp.where(seen_BTS.any(-1)[:, :, None, None], out_BTNU, 0)


def test_bfloat16_stays_close_to_float64():
    """Inputs are exact in bfloat16. Weights are rounded to it, so an output, a mean of values, is off by at most 2⁻⁸ of the
    largest value, and by 2⁻⁹ of its own size when it is rounded itself; gradients by 1 % of the largest one."""
    shape = make_shape(150, 150, 2, 1, dtype="bfloat16")
    arrays, segments = make_inputs(shape)
    exact = {name: array.astype(np.float64) for name, array in arrays.items()}
    qkv = [exact[name] for name in ("q_BTNH", "k_BSJH", "v_BSJU")]
    want = np.nan_to_num(attention_numpy(*qkv, *segments.values(), scale=0.3))
    got = value_and_gradients(pallas_tpu.flash_attention, arrays, segments, blocks=Blocks(128, 128, 2), interpret=True)
    assert got["out"].dtype == jnp.bfloat16
    error = np.abs(np.asarray(got["out"], np.float64) - want)
    assert error.max() <= (2**-8 + 2**-9) * np.abs(exact["v_BSJU"]).max()

    dout = jnp.cos(jnp.arange(want.size, dtype=jnp.float32)).reshape(want.shape).astype(jnp.bfloat16)
    dout = np.asarray(dout, np.float64)
    gradients = gradients_float64(lambda *qkv: (attention_float64(*qkv, segments.values()) * dout).sum(), *qkv)
    for name, gradient in zip(("q_BTNH", "k_BSJH", "v_BSJU"), gradients, strict=True):
        error = np.abs(np.asarray(got[name], np.float64) - gradient)
        assert error.max() < 0.01 * np.abs(gradient).max(), name


def test_steps_between_segments_do_nothing():
    """Keys of other segments hold NaN: whoever touched one would have NaN too."""
    shape = make_shape(512, 512, 1, 1)
    arrays, _ = make_inputs(shape)
    segments = np.repeat([[1, 2, 3, 0]], 128, axis=1).reshape(1, 4, 128).swapaxes(1, 2)
    segments = np.sort(np.where(segments == 0, 9, segments).reshape(1, 512), axis=1)
    segments = np.where(segments == 9, 0, segments).astype(np.int32)
    arrays["k_BSJH"][0, 384:] = np.nan
    arrays["v_BSJU"][0, 384:] = np.nan
    options = {"q_segments_BT": segments, "kv_segments_BS": segments, "scale": 0.3}
    out = pallas_tpu.flash_attention(*arrays.values(), **options, blocks=Blocks(128, 128, 1), interpret=True)
    assert np.isfinite(out).all() and np.asarray(out)[0, :384].any() and not np.asarray(out)[0, 384:].any()


def test_segments_of_one_prefix_do_not_meet():
    """Two prefixes of a block each, two segments of two blocks that go on from each: which blocks of keys are worked on."""
    of_blocks = [1, 2, 2, 3, 3, 4, 5, 5, 6, 0]
    segments = np.repeat([of_blocks], 128, axis=1).astype(np.int32)
    prefixes = np.repeat([[{2: 1, 3: 1, 5: 4, 6: 4}.get(number, 0) for number in of_blocks]], 128, axis=1)
    call = pallas_tpu._Call(make_shape(1280, 1280, 1, 1, has_prefixes=True), Blocks(128, 128, 1), 1.0, 0, "v5e", True)
    ids, offset = (segments, segments, prefixes.astype(np.int32)), np.zeros(1, np.int32)
    for keys_outside in (False, True):
        table = np.asarray(pallas_tpu._block_table(call, ids, offset, keys_outside=keys_outside)).reshape(10, 10)
        works = table == np.arange(10)
        works = works.T if keys_outside else works
        seen = [np.flatnonzero(row).tolist() for row in works[:9, :9]]  # the last block is padding
        assert seen == [[0], [0, 1], [0, 1, 2], [0, 3], [0, 3, 4], [5], [5, 6], [5, 6, 7], [5, 8]]


def hbm_bytes(call, name, operands):
    """Bytes that Pallas' pipeline moves: an operand's block each time its index differs from that of the step before."""
    keys_outside = name == "dkv"
    specs = pallas_tpu._specs(call, keys_outside=keys_outside)
    sizes = (call.shape.queries, call.shape.keys, call.shape.queries)
    ones = [np.ones((call.shape.batch, n), np.int32) for n in sizes]
    offset = np.array([call.shape.keys - call.shape.queries], np.int32)
    table = np.asarray(pallas_tpu._block_table(call, ones, offset, keys_outside=keys_outside))
    inner = [call.num_k, call.head_blocks, call.num_q] if keys_outside else [call.head_blocks, call.num_q, call.num_k]
    total = 0
    for operand, itemsize in operands:
        spec = specs[operand]
        grid = itertools.product(range(call.shape.batch), *map(range, inner))
        indices = [tuple(int(i) for i in spec.index_map(*step, table, None)) for step in grid]
        moves = 1 + sum(a != b for a, b in itertools.pairwise(indices))
        total += moves * itemsize * int(np.prod([size or 1 for size in spec.block_shape]))
    return total


@pytest.mark.parametrize("heads", [(4, 4, 8, 2), (4, 1, 0, 2), (4, 2, 0, 4), (4, 1, 0, 4)])
@pytest.mark.parametrize("has_prefixes", [False, True])
def test_costs_are_what_the_index_maps_read(heads, has_prefixes):
    num_heads, kv_heads, rope_dim, heads_a_block = heads
    fields = {"batch": 2, "dtype": "bfloat16", "has_prefixes": has_prefixes}
    shape = make_shape(512, 768, num_heads, kv_heads, rope_dim, **fields)
    blocks = Blocks(128, 256, heads_a_block)
    call = pallas_tpu._Call(shape, blocks, 1.0, None, "v5e", True)
    of_queries, of_keys = [("q", 2)], [("k", 2), ("v", 2)]
    if rope_dim:
        of_queries, of_keys = [*of_queries, ("q_rope", 2)], [*of_keys, ("k_rope", 2)]
    q, k = [*of_queries, *[("q_ids", 4)] * (1 + has_prefixes)], [*of_keys, ("kv_ids", 4)]
    rows = [("row", 4)]
    operands = {"fwd": [*q, *k, ("out", 2), *rows], "dq": [*q, *k, ("out", 2), *rows, *rows, *of_queries]}
    operands["dkv"] = [*q, *k, ("out", 2), *rows, *rows, *of_keys]
    for name, cost in call.costs.items():
        assert cost.bytes_accessed == hbm_bytes(call, name, operands[name]), name
    # Blocks (128 queries, 256 keys) of 512 queries that start at 256: 2, 2, 3, 3 of them hold something visible.
    assert call.costs["fwd"].transcendentals == 2 * num_heads * 10 * 128 * 256
    assert call.costs["fwd"].flops == 2 * (16 + rope_dim + 8) * call.costs["fwd"].transcendentals


def test_blocks_follow_the_generation():
    shape = SHAPES["flash_attention"]["v3_train_4k"]
    chosen = {generation: shapes.choose_blocks(shape, generation) for generation in hardware.GENERATIONS}
    assert chosen == {
        "v5e": Blocks(512, 256, 2), "v5p": Blocks(512, 256, 2), "v6e": Blocks(1024, 1024, 2), "tpu7x": Blocks(512, 512, 2),
    }  # fmt: skip
    for generation, blocks in chosen.items():
        assert shapes.vmem_bytes(shape, blocks) <= hardware.info(generation).vmem_capacity_bytes // 4
    # Grouped heads share what is read of keys, so fewer queries do.
    assert shapes.choose_blocks(SHAPES["flash_attention"]["llama3.3_70b_8k"], "v6e") == Blocks(256, 512, 8)


def test_what_is_not_supported_is_named():
    arrays, segments = make_inputs(make_shape(8, 8, 2, 1))
    qkv, options = list(arrays.values()), segments | {"scale": 1.0}

    def attend(*arrays, **more):
        return flash_attention(*arrays, **(options | {"implementation": "pallas_tpu", "interpret": True} | more))

    with pytest.raises(ValueError, match=r"needs a TPU.*'cpu'.*interpret=True"):
        attend(*qkv, interpret=False)
    with pytest.raises(ValueError, match="bfloat16 or float32"):
        attend(*(a.astype(np.float16) for a in qkv))
    with pytest.raises(ValueError, match="bfloat16 or float32"):
        attend(qkv[0].astype(jnp.bfloat16), *qkv[1:])
    with pytest.raises(ValueError, match="value_dim in multiples of 8 up to 512, not 6"):
        attend(*qkv[:2], qkv[2][..., :6])
    with pytest.raises(ValueError, match="given together"):
        attend(*qkv, q_rope_BTNR=qkv[0])
    long = jax.ShapeDtypeStruct((64, 32_768, 2, 16), jnp.bfloat16)
    ids = jax.ShapeDtypeStruct((64, 32_768), jnp.int32)
    with pytest.raises(ValueError, match="fewer sequences"):
        jax.eval_shape(
            lambda a, s: pallas_tpu.flash_attention(
                a, a, a, q_segments_BT=s, kv_segments_BS=s, scale=1.0, blocks=Blocks(128, 128, 1)
            ),
            long,
            ids,
        )


def splash_attention(blocks, *, interpret=False):
    """JAX's kernel for one sequence as our function: it takes no key in two parts."""
    sizes = {"block_q": blocks.queries, "block_kv": blocks.keys, "block_kv_compute": blocks.keys}
    sizes |= {"block_q_dkv": blocks.queries, "block_kv_dkv": blocks.keys, "block_kv_dkv_compute": blocks.keys}
    sizes |= {"block_q_dq": blocks.queries, "block_kv_dq": blocks.keys}

    def attend(q_BTNH, k_BSJH, v_BSJU, *, q_segments_BT, kv_segments_BS, scale, q_offset=0, **ropes):
        q, k = with_rope(q_BTNH, k_BSJH, **ropes)
        mask = splash_mask.MultiHeadMask([splash_mask.CausalMask((q.shape[1], k.shape[1]))] * q.shape[2])
        kernel = splash.make_splash_mha_single_device(mask, block_sizes=splash.BlockSizes(**sizes), interpret=interpret)
        ids = splash.SegmentIds(q=jnp.asarray(q_segments_BT[0]), kv=jnp.asarray(kv_segments_BS[0]))
        heads_first = [jnp.swapaxes(a[0], 0, 1) for a in (q * scale, k, v_BSJU)]
        return jnp.swapaxes(kernel(*heads_first, segment_ids=ids), 0, 1)[None]

    return attend


def check_beside_splash_attention(theirs, blocks):
    """At MLA's sizes in small: keys of 24, values of 8, several segments."""
    arrays, segments = make_inputs(make_shape(256, 256, 2, 2, rope_dim=8))
    segments["q_segments_BT"][:] = segments["kv_segments_BS"]
    seen = (segments["q_segments_BT"] > 0)[:, :, None, None]  # splash lets padding attend to padding

    def masked(implementation):
        return lambda *args, **options: jnp.where(seen, implementation(*args, **options), 0)

    ours = functools.partial(pallas_tpu.flash_attention, blocks=blocks, interpret=True)
    got = value_and_gradients(masked(ours), arrays, segments)
    check_equal(got, value_and_gradients(masked(theirs), arrays, segments))


def test_equals_splash_attention():
    blocks = Blocks(128, 128, 2)
    check_beside_splash_attention(splash_attention(blocks, interpret=True), blocks)


def splash_forward_bytes(shape, blocks):
    """(bytes of splash's own forward kernel, bytes to make its one-part queries and keys), from its block specs.

    Each head reads its keys and values for every block that the diagonal does not hide; segments of queries are repeated over
    128 lanes and those of keys over 8 sublanes; the normaliser is written over 128 lanes.
    """
    depth = shape.head_dim + shape.rope_dim
    pairs = sum((i + 1) * blocks.queries // blocks.keys for i in range(shape.queries // blocks.queries))
    rows = shape.heads * shape.queries
    kernel = rows * ((depth + shape.value_dim) * 2 + 2 * 128 * 4)
    kernel += shape.heads * pairs * blocks.keys * ((depth + shape.value_dim) * 2 + 8 * 4)
    joined = 2 * rows * 2 * depth * 2  # queries and keys: both parts read, one array written
    return kernel, joined


def test_moves_fewer_bytes_than_splash_attention():
    shape = SHAPES["flash_attention"]["v3_train_4k"]
    for generation in hardware.GENERATIONS:
        blocks = shapes.choose_blocks(shape, generation)
        kernel, joined = splash_forward_bytes(shape, blocks)
        ours = shapes.costs(shape, blocks)["fwd"].bytes_accessed
        assert ours < kernel
        if generation == "v5e":  # the figures of kernels/README.md
            assert [round(size / 1e9, 2) for size in (ours, kernel, joined)] == [1.70, 2.46, 0.81]
            assert round(shape.unfused_bytes(generation)["forward"] / 1e9, 1) == 26.4


@tpu_compile
@pytest.mark.parametrize(
    "name", ["v3_train_4k", "v3_prefill_chunk", "qwen2.5_7b_4k", "smollm2_2k", "mini_v3", "mini_qwen"]
)
def test_compiles_for_tpus(generation, name):
    shape = SHAPES["flash_attention"][name]

    def gradients(arrays, offset):
        segments = {key: arrays.pop(key) for key in ("q_segments_BT", "kv_segments_BS")}

        def loss(arrays):
            rest = dict(arrays)
            qkv = [rest.pop(key) for key in ("q_BTNH", "k_BSJH", "v_BSJU")]
            return flash_attention(*qkv, **rest, **segments, scale=0.1, q_offset=offset).astype(jnp.float32).sum()

        return jax.grad(loss)(arrays)

    compiled = compile_for(generation, gradients, attention_arrays(shape), jax.ShapeDtypeStruct((), jnp.int32))
    blocks = shapes.choose_blocks(shape, generation)
    costs = shapes.costs(shape, blocks)
    kernels = check_kernels(generation, compiled, [f"flash_attention_{name}" for name in costs])
    for kernel in kernels:
        cost = next(cost for name, cost in costs.items() if f"flash_attention_{name}" in kernel.name)
        assert (kernel.flops, kernel.bytes_accessed, kernel.transcendentals) == (
            cost.flops, cost.bytes_accessed, cost.transcendentals,
        )  # fmt: skip
        assert kernel.vmem_bytes <= shapes.vmem_bytes(shape, blocks)


def temporary_bytes(generation, implementation):
    """What the compiler keeps besides arguments and results of value and gradient at V3's training shape."""

    def both(arrays):
        segments = {key: arrays.pop(key) for key in ("q_segments_BT", "kv_segments_BS")}

        def attend(arrays):
            rest = dict(arrays)
            qkv = [rest.pop(key) for key in ("q_BTNH", "k_BSJH", "v_BSJU")]
            return implementation(*qkv, **rest, **segments, scale=0.1)

        out, pull = jax.vjp(attend, arrays)
        return out, pull(out)

    compiled = compile_for(generation, both, attention_arrays(SHAPES["flash_attention"]["v3_train_4k"]))
    return compiled.memory_analysis().temp_size_in_bytes


@tpu_compile(generations=["v5p"])
def test_takes_less_memory_than_splash_attention(generation):
    blocks = shapes.choose_blocks(SHAPES["flash_attention"]["v3_train_4k"], generation)
    ours, theirs = (temporary_bytes(generation, f) for f in (pallas_tpu.flash_attention, splash_attention(blocks)))
    assert ours < 0.5e9 and theirs > 2 * ours  # 0.48 and 1.21 GB
