import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels import hardware
from r1jax.kernels.named_shapes import SHAPES
from r1jax.kernels.route import route, route_and_sort
from r1jax.kernels.route.pallas_tpu import RouterShape
from r1jax.kernels.route.reference import Routing
from tests.kernels.interpreter import STRICT, races_found
from tests.kernels.jaxprs import kernel_costs
from tests.kernels.tpu_aot import check_kernels, compile_for, tpu_compile

pytestmark = pytest.mark.usefixtures("quick_compilation")


def make_shape(tokens, experts, chosen, groups=1, kept=1, best_per_group=2):
    sizes = {"num_experts_per_token": chosen, "num_groups": groups, "num_groups_per_token": kept}
    return RouterShape(tokens, experts, Routing(**sizes, best_per_group=best_per_group, scaling=2.5))


V2 = {"best_per_group": 1, "normalize": False}
CASES = {
    # name: (shape, options)
    "one token": (make_shape(1, 8, 2), {}),
    "v3, two blocks": (make_shape(600, 256, 8, 8, 4), {}),
    "v2, softmax of logits": (make_shape(77, 160, 6, 8, 3, 1), V2 | {"score_function": "softmax"}),
    "sigmoid of logits": (make_shape(40, 16, 4, 4, 2), {"score_function": "sigmoid"}),
    "groups of one": (make_shape(50, 6, 3, 6, 3), {}),
    "more experts than the kept groups have": (make_shape(50, 8, 3, 8, 1), {}),
}


def options_of(shape, **more):
    return dataclasses.asdict(shape.routing) | more


def both(scores, bias, **options):
    """What reference and kernel make of it."""
    interpret = options.pop("interpret", True)
    names = ({"implementation": "reference"}, {"implementation": "pallas_tpu", "interpret": interpret})
    return [jax.jit(functools.partial(route_and_sort, **options, **name))(scores, bias) for name in names]


def check_equal(want, got):
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, got[1:], want[1:])  # experts; rows, places, offsets


@pytest.mark.parametrize("case", CASES)
def test_choice_weights_and_order_are_the_references(case):
    shape, options = CASES[case]
    rng = np.random.default_rng(shape.tokens)
    scores = rng.uniform(0.05, 0.95, (shape.tokens, shape.experts)).astype(np.float32)
    bias = None if "v2" in case else rng.normal(0, 0.3, shape.experts).astype(np.float32)
    check_equal(*both(scores, bias, **options_of(shape, **options)))


def test_ties_minus_zero_and_infinities_are_ordered_as_top_k_orders_them():
    values = np.array([-0.0, 0.0, np.inf, -np.inf, 0.5, np.nan], np.float32)
    scores = np.random.default_rng(0).choice(values, (60, 16))
    scores[30:] = np.random.default_rng(1).choice(np.float32([-0.0, -1.0, -1e-30, -np.inf]), (30, 16))
    want, got = both(scores, None, **options_of(make_shape(60, 16, 4), normalize=False))
    np.testing.assert_array_equal(got[1], want[1])


def test_memory_is_written_before_it_is_read_and_without_races():
    scores = np.random.default_rng(2).uniform(size=(700, 8)).astype(np.float32)  # two blocks, the last one cut
    check_equal(*both(scores, np.zeros(8, np.float32), **options_of(make_shape(700, 8, 2, 4, 2)), interpret=STRICT))
    assert not races_found()


@pytest.mark.parametrize("options", [{}, V2 | {"score_function": "softmax"}], ids=["v3", "v2"])
def test_gradient_is_the_references(options):
    shape = make_shape(9, 8, 2, 4, 2)
    rng = np.random.default_rng(3)
    scores, mix = rng.uniform(size=(9, 8)).astype(np.float32), rng.normal(size=(9, 2)).astype(np.float32)

    def loss(scores, bias, **name):
        return jnp.sum(mix * route(scores, bias, **(options_of(shape) | options), **name)[0])

    gradients = [
        jax.jit(jax.grad(functools.partial(loss, **name), (0, 1)))(scores, np.zeros(8, np.float32))
        for name in ({"implementation": "reference"}, {"implementation": "pallas_tpu", "interpret": True})
    ]
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), *gradients)
    assert np.abs(gradients[1][0]).max() > 0.1


@pytest.mark.parametrize(
    ("scores", "change", "message"),
    [
        (np.zeros((4, 8), np.float16), {}, "scores are float16; the kernel takes float32"),
        (np.zeros((4, 6), np.float32), {}, "groups of one size"),
        (np.zeros((4, 8), np.float32), {"score_function": "tanh"}, "no score function 'tanh'"),
        (np.zeros((4, 2), np.float32), {"num_groups": 1, "num_groups_per_token": 1}, "3 of 2 experts"),
    ],
)
def test_what_the_kernel_does_not_take_raises(scores, change, message):
    options = options_of(make_shape(4, 8, 3, 4, 2)) | change
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(functools.partial(route, **options, implementation="pallas_tpu", interpret=True), scores, None)


def test_implementations_are_chosen_by_name_and_never_by_silence():
    scores, options = np.zeros((4, 8), np.float32), options_of(make_shape(4, 8, 2))
    with pytest.raises(ValueError, match="'pallas_tpu' needs a TPU"):
        route(scores, None, **options, implementation="pallas_tpu")
    with pytest.raises(ValueError, match="no implementation 'fast'.*'pallas_tpu', 'reference'"):
        route(scores, None, **options, implementation="fast")
    with pytest.raises(ValueError, match="only 'pallas_tpu' can be interpreted"):
        route(scores, None, **options, interpret=True)


def call(shape, **more):
    return functools.partial(route_and_sort, **options_of(shape, implementation="pallas_tpu", **more))


def arrays(shape):
    return [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((shape.tokens, shape.experts), (shape.experts,))]


def test_the_kernel_states_the_cost_of_the_table():
    shape = SHAPES["route"]["v3"]
    stated = kernel_costs(call(shape, interpret=True), *arrays(shape))
    assert stated == {"route": shape.passes(hardware.DEFAULT)[""]}
    assert stated["route"].bytes_accessed == 4 * (4096 * 256 + 2 * 256 + 3 * 4096 * 8)
    assert stated["route"].bytes_accessed < 0.2 * shape.unfused_bytes("v5p")[""]


def test_too_many_experts_for_vmem_are_refused_by_number():
    assert make_shape(4096, 256, 8).block("v5e") == 512
    with pytest.raises(ValueError, match="20000 experts are too many for a TPU v5p; at most 2730"):
        make_shape(4096, 20_000, 8).block("v5p")


@tpu_compile
@pytest.mark.parametrize("name", SHAPES["route"])
def test_compiles(generation, name):
    shape = SHAPES["route"][name]
    compiled = compile_for(generation, call(shape), *arrays(shape))
    (kernel,) = check_kernels(generation, compiled, ["route"])
    assert kernel.bytes_accessed == shape.passes(generation)[""].bytes_accessed
