"""Every kernel at the mini models' own named shapes, interpreted, beside the reference: float32, value and gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels.flash_attention import flash_attention
from r1jax.kernels.grouped_matmul import expert_ffn
from r1jax.kernels.named_shapes import SHAPES
from r1jax.kernels.paged_decode import gqa_decode, mla_decode
from r1jax.kernels.route import route_and_sort
from r1jax.kernels.token_logprob import token_logprob
from tests.kernels.shape_arrays import attention_arrays, decode_arrays

pytestmark = pytest.mark.usefixtures("quick_compilation")
KERNEL = {"implementation": "pallas_tpu", "interpret": True}
REFERENCE = {"implementation": "reference"}


def both(function, *arrays):
    """(of the kernel, of the reference): the results of ``function(*arrays, **which)`` and the gradients of the float arrays."""
    results = []
    for which in (KERNEL, REFERENCE):

        @jax.jit
        def run(*arrays, which=which):
            out, pull = jax.vjp(functools.partial(function, **which), *arrays)
            mix = [jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape) for a in jax.tree.leaves(out)]
            return out, pull(jax.tree.unflatten(jax.tree.structure(out), mix))

        results.append(run(*arrays))
    return results


def check_equal(got, want):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        largest = max(1.0, float(np.abs(b).max()))
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5 * largest)


def normal(seed, *shape, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


@pytest.mark.parametrize("name", ["mini_v3", "mini_qwen"])
def test_flash_attention(name):
    shape = SHAPES["flash_attention"][name]
    arrays = {n: normal(len(n), *a.shape) for n, a in attention_arrays(shape).items() if a.dtype == jnp.float32}
    cuts = np.random.default_rng(0).integers(1, shape.keys, (shape.batch, 3))
    segments = 1 + (np.arange(shape.keys) >= cuts[..., None]).sum(1, dtype=np.int32)
    segments = np.where(segments == 4, 0, segments)  # three packed sequences and padding

    def attend(arrays, **which):
        arrays = dict(arrays)
        qkv = [arrays.pop(n) for n in ("q_BTNH", "k_BSJH", "v_BSJU")]
        return flash_attention(*qkv, **arrays, q_segments_BT=segments, kv_segments_BS=segments, scale=0.15, **which)

    check_equal(*both(attend, arrays))


def pages_of(shape):
    """(float arrays, the rest): pages in scrambled order, sequences from one token to all pages."""
    arrays, integers = decode_arrays(shape)
    floats = jax.tree.map(lambda a: normal(len(a.shape), *a.shape), arrays)
    tables = integers["page_table_BI"].shape
    table = np.random.default_rng(0).permutation(shape.num_pages)[: tables[0] * tables[1]].reshape(tables)
    most = shape.pages_per_sequence * shape.page_size
    lengths = np.linspace(1, most, shape.batch).astype(np.int32)
    return floats, {"page_table_BI": table.astype(np.int32), "lengths_B": lengths, "scale": 0.15}


@pytest.mark.parametrize(
    ("decode", "shape"),
    [(mla_decode, SHAPES["mla_decode"]["mini_v3"]), (gqa_decode, SHAPES["gqa_decode"]["mini_qwen"])],
    ids=["mla", "gqa"],
)
def test_decode(decode, shape):
    floats, rest = pages_of(shape)
    check_equal(*(jax.jit(functools.partial(decode, **rest, **which))(**floats) for which in (KERNEL, REFERENCE)))


def test_route():
    shape = SHAPES["route"]["mini_v3"]
    options = dataclasses.asdict(shape.routing) | {"scaling": 2.5}
    bias = normal(1, shape.experts, scale=0.1)

    def route(logits, **which):
        weights, experts, order = route_and_sort(logits, bias, **options, **which)
        return weights, (experts, order)

    def run(logits, which):
        weights, pull, rest = jax.vjp(functools.partial(route, **which), logits, has_aux=True)
        return weights, pull(jnp.cos(jnp.arange(weights.size, dtype=jnp.float32)).reshape(weights.shape)), rest

    logits = normal(0, shape.tokens, shape.experts)
    got, want = (jax.jit(functools.partial(run, which=which))(logits) for which in (KERNEL, REFERENCE))
    check_equal(got[:2], want[:2])
    jax.tree.map(np.testing.assert_array_equal, got[2], want[2])


def test_experts():
    s, num_chosen = SHAPES["expert_ffn"]["mini_v3"], 2
    experts = np.random.default_rng(0).integers(0, s.experts, (s.rows // num_chosen, num_chosen)).astype(np.int32)
    weights = [normal(i, s.experts, *size, scale=s.dim**-0.5) for i, size in enumerate([(s.dim, s.ffn)] * 2)]
    weights.append(normal(3, s.experts, s.ffn, s.dim, scale=s.ffn**-0.5))

    def ffn(x, mix, *weights, **which):
        return expert_ffn(x, experts, mix, *weights, **which)

    check_equal(*both(ffn, normal(4, s.rows // num_chosen, s.dim), normal(5, *experts.shape), *weights))


def test_token_logprob():
    s = SHAPES["token_logprob"]["mini_v3"]
    targets = np.random.default_rng(0).integers(0, s.vocab, s.rows)

    def logprob(x, w, **which):
        return token_logprob(x, w, targets, temperature=0.8, **which)

    check_equal(*both(logprob, normal(0, s.rows, s.dim), normal(1, s.vocab, s.dim, scale=s.dim**-0.5)))
