"""The TPU kernels, interpreted, split over eight simulated devices against their references on one."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax.kernels import dispatch, paged_decode
from r1jax.kernels.flash_attention import flash_attention
from r1jax.kernels.grouped_matmul import expert_ffn
from r1jax.kernels.route import route, route_and_sort
from r1jax.kernels.token_logprob import token_logprob
from r1jax.sharding import MESH_AXES, make_mesh, partition_spec

pytestmark = pytest.mark.usefixtures("quick_compilation")

KERNEL = {"implementation": "pallas_tpu", "interpret": True}
REFERENCE = {"implementation": "reference"}


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def laid_out(axes, shape, mesh):
    """The sharding of an array as the rules give it; a dim that they do not divide is whole."""
    names = tuple(name for name in axes if name)
    split = iter(dispatch.mesh_axes(names, tuple(n for n, name in zip(shape, axes, strict=True) if name), mesh))
    return NamedSharding(mesh, P(*(next(split) if name else None for name in axes)))


def compare(function, arrays: dict, axes: dict, layout: dict, *, atol=2e-5):
    """Values and gradients of ``function(arrays, **implementation)``, a tree of arrays; ``layout``: name -> logical axes."""

    def both(implementation):
        def loss(arrays):
            values = function(arrays, **implementation)
            weighted = [jnp.sum(jnp.cos(1 + jnp.arange(v.size).reshape(v.shape)) * v) for v in jax.tree.leaves(values)]
            return sum(weighted), values

        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    (_, want), want_gradients = both(REFERENCE)(arrays)
    mesh = make_mesh(axes)
    with jax.set_mesh(mesh):
        placed = {name: jax.device_put(a, laid_out(layout[name], a.shape, mesh)) for name, a in arrays.items()}
        (_, got), gradients = both(KERNEL)(placed)
    for value, wanted in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(value, wanted, atol=atol)
    for name, wanted in want_gradients.items():
        assert np.abs(wanted).max() > 1e-3
        np.testing.assert_allclose(gradients[name], wanted, atol=atol, err_msg=name)
    return got


ATTENTION = {
    "mla": ({"data": 2, "fsdp": 2, "tensor": 2}, 4, 4, 8),
    "gqa": ({"data": 2, "expert": 2, "tensor": 2}, 4, 2, 0),
    "one key head": ({"fsdp": 2, "tensor": 4}, 4, 1, 0),  # heads stay whole
}


@pytest.mark.parametrize("name", ATTENTION)
def test_flash_attention_over_sequences_and_heads(name):
    axes, heads, kv_heads, rope = ATTENTION[name]
    batch, queries, keys = 4, 5, 9
    arrays = {
        "q": normal(0, batch, queries, heads, 8),
        "k": normal(1, batch, keys, kv_heads, 8),
        "v": normal(2, batch, keys, kv_heads, 16),
    }
    layout = {"q": ("batch", None, "heads", None)} | dict.fromkeys("kv", ("batch", None, "kv_heads", None))
    if rope:
        arrays |= {"q_rope": normal(3, batch, queries, heads, rope), "k_rope": normal(4, batch, keys, rope)}
        layout |= {"q_rope": ("batch", None, "heads", None), "k_rope": ("batch", None, None)}
    segments = np.array(
        [[1] * 9, [1, 1, 1, 1, 1, 1, 2, 2, 0], [1, 1, 2, 2, 2, 2, 2, 3, 3], [0, 0, 1, 1, 1, 1, 1, 1, 1]]
    )
    segments = segments.astype(np.int32)

    def attend(a, **implementation):
        ropes = {"q_rope_BTNR": a["q_rope"], "k_rope_BSR": a["k_rope"]} if rope else {}
        rest = {"q_segments_BT": segments[:, 4:], "kv_segments_BS": segments, "scale": 0.3}
        return flash_attention(a["q"], a["k"], a["v"], q_offset=jnp.int32(4), **ropes, **rest, **implementation)

    compare(attend, arrays, axes, layout)


@pytest.mark.parametrize(
    ("axes", "vocab"),
    [
        ({"data": 2, "fsdp": 2, "tensor": 2}, 22),
        ({"tensor": 8}, 24),
        ({"fsdp": 4, "tensor": 2}, 21),
        ({"fsdp": 2, "sequence": 2, "tensor": 2}, 22),
        ({"sequence": 8}, 22),
    ],
    ids=str,
)
def test_token_logprob_over_rows_and_vocabulary(axes, vocab):
    """21 tokens, which 2 devices do not divide, stay whole; so do 12 rows, which 8 parts of a sequence do not divide."""
    arrays = {"x": normal(0, 12, 8), "w": normal(1, vocab, 8)}
    targets = np.random.default_rng(2).integers(0, vocab, 12)
    targets[:2] = 0, vocab - 1

    def logprob(a, **implementation):
        return token_logprob(a["x"], a["w"], targets, temperature=jnp.float32(0.7), **implementation)

    compare(logprob, arrays, axes, {"x": ("batch", None), "w": ("vocab", "embed")})


def test_part_of_the_vocabulary_without_mass():
    """Tokens that are −inf for a row may be all that a device has."""
    w = np.zeros((16, 8), np.float32)
    w[8:, 0], w[:8, 1:] = -np.inf, normal(1, 8, 7)
    x = np.abs(normal(0, 4, 8))
    targets = np.arange(4)
    want = token_logprob(x, w[:8], targets, **REFERENCE)
    with jax.set_mesh(make_mesh({"fsdp": 2, "tensor": 2})):
        got = jax.jit(partial(token_logprob, **KERNEL))(x, w, targets)
    np.testing.assert_allclose(got, want, atol=2e-6)


ROUTING = {"num_experts_per_token": 2, "num_groups": 4, "num_groups_per_token": 2, "scaling": 2.5}


def test_route_over_tokens():
    options = ROUTING | {"score_function": "sigmoid"}
    scores, bias = normal(0, 16, 8), 0.1 * normal(1, 8)

    def weights(a, **implementation):
        return route(a["scores"], bias, **options, **implementation)[0]

    mesh = {"data": 2, "fsdp": 2, "expert": 2}
    compare(weights, {"scores": scores}, mesh, {"scores": ("batch", None)})
    want = route_and_sort(scores, bias, **options, **REFERENCE)
    with jax.set_mesh(make_mesh(mesh)):
        got = jax.jit(partial(route_and_sort, **options, **KERNEL))(scores, bias)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), got, want)


def experts_case():
    rng = np.random.default_rng(0)
    arrays = {
        "x": normal(0, 16, 8), "weights": rng.uniform(0.1, 1, (16, 2)).astype(np.float32),
        "gate": normal(1, 8, 8, 4), "up": normal(2, 8, 8, 4), "down": normal(3, 8, 4, 8),
    }  # fmt: skip
    layout = dict.fromkeys(("gate", "up"), ("experts", "embed", "mlp")) | {"down": ("experts", "mlp", "embed")}
    return arrays, layout | dict.fromkeys(("x", "weights"), ("batch", None))


MIX = {"fsdp": 2, "expert": 2, "tensor": 2}


@pytest.mark.parametrize(
    ("axes", "choice"), [({"data": 2, "fsdp": 4}, "spread"), (MIX, "spread"), (MIX, "one expert")], ids=str
)
def test_experts_over_tokens_experts_and_width(axes, choice):
    """With all tokens on one expert no other has a row, nor has half of the devices."""
    arrays, layout = experts_case()
    experts = np.random.default_rng(4).integers(0, 6, (16, 2)) if choice == "spread" else np.full((16, 2), 5)

    def ffn(a, **implementation):
        return expert_ffn(a["x"], experts, a["weights"], a["gate"], a["up"], a["down"], **implementation)

    compare(ffn, arrays, axes, layout, atol=1e-4)  # values of some 30


def test_experts_stay_where_decoding_has_them():
    """By the rules of the role "rollout" nothing but tokens and their sums travels; experts are over more axes."""
    arrays, layout = experts_case()
    experts = np.random.default_rng(4).integers(0, 8, (16, 2))

    def ffn(a, **implementation):
        return expert_ffn(
            a["x"], experts, a["weights"], a["gate"], a["up"], a["down"], role="rollout", **implementation
        )

    want, mesh = ffn(arrays, **REFERENCE), make_mesh({"fsdp": 2, "expert": 2, "tensor": 2})
    placed = {
        name: jax.device_put(a, NamedSharding(mesh, partition_spec(layout[name], a.shape, mesh, role="rollout")))
        for name, a in arrays.items()
    }
    assert placed["gate"].sharding.shard_shape((8, 8, 4)) == (2, 8, 2)
    with jax.set_mesh(mesh):
        compiled = jax.jit(partial(ffn, **KERNEL)).lower(placed).compile()
        np.testing.assert_allclose(compiled(placed), want, atol=1e-4)
    moved = re.findall(r"= f32\[([\d,]*)\]\S* (?:all-gather|all-to-all|collective-permute)\(", compiled.as_text())
    assert moved and not [shape for shape in moved if shape.count(",") == 2]


DECODE_MESHES = [
    ("mla", {"data": 2, "sequence": 2, "tensor": 2}, ("data", "sequence")),
    ("gqa", {"data": 2, "sequence": 2, "tensor": 2}, ("data", "sequence")),
    ("gqa", {"expert": 2, "tensor": 4}, ()),  # four devices for two key heads: those stay whole
]


@pytest.mark.parametrize(("name", "axes", "batch_axes"), DECODE_MESHES, ids=str)
def test_decode_over_sequences_with_their_pages_and_heads(name, axes, batch_axes):
    """Tokens are written, a page is copied, and two queries a sequence read: each device in its own part of the pool."""
    batch, heads, lengths = 4, 4, np.array([3, 200, 129, 256], np.int32)
    rng = np.random.default_rng(0)
    table = (5 * np.arange(batch)[:, None] + [rng.permutation(5)[:2] for _ in range(batch)]).astype(np.int32)
    copies = np.stack([table[:, 1], 5 * np.arange(batch) + [np.setdiff1d(range(5), row % 5)[0] for row in table]], 1)
    sizes = {"num_pages": 20, "page_size": 128, "dtype": jnp.float32}
    if name == "mla":
        pages = paged_decode.pages.init_pages(latent_dim=16, rope_dim=8, **sizes)
        new = {"latent_BTC": normal(0, batch, 256, 16), "rope_BTR": normal(1, batch, 256, 8)}
        queries = normal(2, batch, 2, heads, 16), normal(3, batch, 2, heads, 8)
    else:
        pages = paged_decode.pages.init_pages(kv_heads=2, head_dim=16, **sizes)
        new = {"k_BTJH": normal(0, batch, 256, 2, 16), "v_BTJH": normal(1, batch, 256, 2, 16)}
        queries = (normal(2, batch, 2, heads, 16),)

    def decode(pages, new, queries, *, batch_axes=(), **implementation):
        start, moved = np.zeros(batch, np.int32), table.copy()
        moved[:, 1] = copies[:, 1]
        where = {"page_table_BI": table, "start_B": start, "counts_B": lengths, "batch_axes": batch_axes}
        pages = paged_decode.write_pages(pages, new, **where)
        pages = paged_decode.pages.copy(pages, pages_B2=copies, batch_axes=batch_axes)
        options = {"page_table_BI": moved, "lengths_B": lengths, "scale": 0.3, "batch_axes": batch_axes}
        return getattr(paged_decode, f"{name}_decode")(*queries, pages, **options, **implementation), pages

    want = jax.jit(partial(decode, **REFERENCE))(pages, new, queries)
    assert all(np.abs(np.asarray(a)).max() > 0.1 for a in jax.tree.leaves(want))
    with jax.set_mesh(make_mesh(axes)):
        for how in (KERNEL, REFERENCE):
            got = jax.jit(partial(decode, batch_axes=batch_axes, **how))(pages, new, queries)
            jax.tree.map(partial(np.testing.assert_allclose, atol=2e-5), got, want)
            pool = jax.tree.leaves(got[1])[0]
            assert pool.sharding.shard_shape(pool.shape)[0] == 20 // math.prod(axes[axis] for axis in batch_axes)


def test_tokens_that_the_expert_axis_does_not_divide_are_not_gathered():
    arrays, layout = experts_case()
    arrays |= {"x": arrays["x"][:6], "weights": arrays["weights"][:6]}
    experts = np.random.default_rng(4).integers(0, 8, (6, 2))

    def ffn(a, **implementation):
        return expert_ffn(a["x"], experts, a["weights"], a["gate"], a["up"], a["down"], **implementation)

    compare(ffn, arrays, {"data": 2, "expert": 4}, layout, atol=1e-4)


def test_where_a_kernel_is_split_and_chosen():
    told = []

    def tell(x):
        implementations = {"pallas_tpu": "kernel", "plain": "plain"}
        told.append(dispatch.choose_implementation("op", "auto", implementations, default="plain", interpret=False)[0])
        told.append(dispatch.mesh_to_split() is not None)
        return x

    device = jax.sharding.AbstractDevice("TPU v6 lite", 1, "tpu")
    names = MESH_AXES
    mesh = jax.sharding.AbstractMesh(
        (2, 1, 1, 2, 1), names, axis_types=(jax.sharding.AxisType.Auto,) * 5, abstract_device=device
    )
    x = jax.ShapeDtypeStruct((4,), "float32")
    jax.eval_shape(tell, x)  # a CPU
    with jax.sharding.use_abstract_mesh(mesh):
        jax.eval_shape(tell, x)
        jax.eval_shape(jax.shard_map(tell, in_specs=P(names), out_specs=P(names)), x)
        jax.eval_shape(jax.shard_map(tell, in_specs=P("data"), out_specs=P("data"), axis_names={"data"}), x)
    assert told[:2] == ["plain", False]
    assert told[2:4] == ["kernel", True]
    assert told[4:6] == ["kernel", False]  # one device's part
    assert told[6:] == ["plain", False]  # XLA partitions the axis "tensor"
