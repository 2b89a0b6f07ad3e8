"""The kernels beside tokamax's for TPUs, where that package is installed; it is in no list of requirements:

pip install --target DIR tokamax==0.0.12, then PYTHONPATH=DIR pytest tests/kernels/test_beside_tokamax.py

Bytes are modelled from block specs and index maps, as in the tests beside JAX's own kernels.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels import hardware
from r1jax.kernels.flash_attention import shapes, with_rope
from r1jax.kernels.flash_attention.shapes import Blocks
from r1jax.kernels.grouped_matmul import pallas_tpu as grouped
from r1jax.kernels.grouped_matmul.shapes import ExpertShape
from r1jax.kernels.named_shapes import SHAPES
from r1jax.kernels.token_logprob import token_logprob
from tests.kernels.jaxprs import kernel_costs
from tests.kernels.test_flash_attention_pallas import (
    check_beside_splash_attention,
    splash_forward_bytes,
    temporary_bytes,
)
from tests.kernels.tpu_aot import tpu_compile

pytest.importorskip("tokamax", exc_type=ImportError)
from jax._src.pallas.mosaic import tpu_info
from jax.experimental.pallas import tpu as pltpu
from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_kernel as splash
from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_mask as splash_mask
from tokamax._src.ops.linear_softmax_cross_entropy_loss import pallas_mosaic_tpu_kernel as cross_entropy
from tokamax._src.ops.ragged_dot import pallas_mosaic_tpu_kernel as ragged

pytestmark = pytest.mark.usefixtures("quick_compilation")


def splash_attention(blocks, *, interpret=False):
    """tokamax's splash attention of one sequence as our function: it takes no key in two parts."""

    def attend(q_BTNH, k_BSJH, v_BSJU, *, q_segments_BT, kv_segments_BS, scale, q_offset=0, **ropes):
        q, k = with_rope(q_BTNH, k_BSJH, **ropes) if ropes else (q_BTNH, k_BSJH)
        sizes = {"block_q": blocks.queries, "block_kv": blocks.keys}
        sizes |= {f"{name}_dkv": size for name, size in sizes.items()}
        config = splash.SplashConfig(**sizes, interpret=interpret)
        mask = splash_mask.CausalMask((q.shape[1], k.shape[1]))
        kernel = splash.make_splash_mha_single_device(mask, config=config)
        ids = splash.base.SegmentIds(q=jnp.asarray(q_segments_BT[0]), kv=jnp.asarray(kv_segments_BS[0]))
        heads_first = [jnp.swapaxes(a[0], 0, 1) for a in (q * scale, k, v_BSJU)]
        return jnp.swapaxes(kernel(*heads_first, segment_ids=ids), 0, 1)[None]

    return attend


def test_equals_splash_attention():
    blocks = Blocks(128, 128, 2)
    check_beside_splash_attention(splash_attention(blocks, interpret=True), blocks)


@tpu_compile(generations=["v5p"])
def test_takes_less_memory_than_splash_attention(generation):
    blocks = shapes.choose_blocks(SHAPES["flash_attention"]["v3_train_4k"], generation)
    assert (
        temporary_bytes(generation, splash_attention(blocks)) > 10e9
    )  # a part of dq for each block of keys; ours: 0.48


def test_moves_fewer_bytes_than_splash_attention():
    """Its forward pass for training writes two statistics of a row, over 128 lanes each, where JAX's writes one."""
    shape = SHAPES["flash_attention"]["v3_train_4k"]
    for generation in hardware.GENERATIONS:
        blocks = shapes.choose_blocks(shape, generation)
        kernel, joined = splash_forward_bytes(shape, blocks)
        kernel += shape.heads * shape.queries * 128 * 4
        ours = shapes.costs(shape, blocks)["fwd"].bytes_accessed
        assert ours < kernel
        if generation == "v5e":
            assert [round(size / 1e9, 2) for size in (ours, kernel, joined)] == [1.70, 2.73, 0.81]


def gmm(x, w, sizes, *, tiling, dtype):
    return ragged.gmm(x, w, sizes, (jax.lax.Precision.HIGHEST,) * 2, dtype, tiling, interpret=pltpu.InterpretParams())


def test_equals_grouped_matmul_and_moves_fewer_bytes(monkeypatch):
    monkeypatch.setitem(tpu_info.registry, "cpu", lambda: hardware.info("v5e"))  # its pipeline asks what it runs on
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(256, 128)).astype(np.float32), rng.normal(size=(3, 128, 128)).astype(np.float32)
    sizes, offsets = jnp.array([100, 0, 156], jnp.int32), jnp.array([0, 100, 100, 256], jnp.int32)
    call = ExpertShape(256, 3, 128, 128, itemsize=4).forward_calls()[1]

    def ours(x, w):
        visits = grouped._visits(offsets, call.shape, for_sums=False)
        return grouped._rows(call, [x], [w], lambda y: (y,), visits=visits, offsets=offsets, interpret=True)[0]

    want = gmm(jnp.asarray(x), jnp.asarray(w), sizes, tiling=(128, 128, 128), dtype=jnp.float32)
    np.testing.assert_allclose(jax.jit(ours)(x, w), want, rtol=2e-5, atol=2e-4)  # sums of 128 products

    s = SHAPES["expert_ffn"]["v3"]
    x, w = jax.ShapeDtypeStruct((s.rows, s.dim), jnp.bfloat16), jax.ShapeDtypeStruct((8, s.dim, s.ffn), jnp.bfloat16)
    theirs = functools.partial(gmm, tiling=(512, 1024, 1024), dtype=jnp.dtype("bfloat16"))
    ((_, cost),) = kernel_costs(theirs, x, w, jax.ShapeDtypeStruct((8,), jnp.int32)).items()
    ours = s.forward_calls()[0].cost("v5p").bytes_accessed
    assert (ours // 10**7, cost.bytes_accessed // 10**7) == (248, 315)  # gate and up; gate alone


def test_equals_linear_softmax_cross_entropy_and_moves_fewer_bytes():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(256, 256)).astype(np.float32), rng.normal(size=(512, 256)).astype(np.float32)
    targets = rng.integers(0, 512, 256).astype(np.int32)
    blocks = {"b_block_size": 256, "h_block_size": 128, "v_block_size": 256}
    with pltpu.force_tpu_interpret_mode():
        loss, _ = cross_entropy.linear_softmax_cross_entropy_loss_fwd_pallas_mosaic_tpu(x, targets, w.T, **blocks)
    kernel = functools.partial(token_logprob, implementation="pallas_tpu", interpret=True)
    np.testing.assert_allclose(-jax.jit(kernel)(x, w, targets)[0].sum(), loss, rtol=2e-5)

    # Blocks of 1024 rows, 512 numbers and 2048 tokens, the numbers innermost: each product reads both its blocks again.
    s = SHAPES["token_logprob"]["v3"]
    rows, tokens = -(-s.rows // 1024), -(-s.vocab // 2048)
    theirs = 2 * s.dim * (tokens * s.rows + rows * s.vocab)
    half = 2 * s.dim * (-(-s.vocab // 1024) * s.rows + rows * s.vocab)  # what a v5p has VMEM for: 1024 tokens
    ours = {g: s.passes(g)["forward"].bytes_accessed for g in hardware.GENERATIONS}
    assert all(size < theirs for size in ours.values())
    assert [round(size / 1e9, 1) for size in (ours["v5p"], theirs, half)] == [14.9, 22.3, 29.7]
