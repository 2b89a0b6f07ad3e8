"""What can be known of a GPU's paths without one: programs lowered for it, cuDNN's arguments, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels import hardware
from r1jax.kernels.flash_attention import flash_attention
from r1jax.kernels.grouped_matmul import expert_ffn
from r1jax.kernels.route import route_and_sort
from r1jax.kernels.token_logprob import token_logprob
from tests.kernels.test_flash_attention_pallas import make_inputs, make_shape

pytestmark = pytest.mark.usefixtures("quick_compilation")
CUDNN = functools.partial(flash_attention, implementation="cudnn", scale=0.3)
dot_product_attention = jax.nn.dot_product_attention


@pytest.fixture
def gpu(monkeypatch):
    """A program for a Hopper GPU, as far as the package can tell."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(hardware, "is_nvidia_gpu", lambda: True)
    monkeypatch.setattr(hardware, "gpu_capability", lambda: (9, 0))


@pytest.mark.parametrize(("heads", "offset"), [((4, 2, 0), 0), ((2, 2, 8), 60)])
def test_equals_the_reference_if_jax_computes_what_cudnn_is_asked(heads, offset, gpu, monkeypatch):
    """Grouped heads; a chunk of MLA, in two parts with narrow values. JAX's plain implementation takes the same arguments."""
    asked = []

    def instead(*arrays, implementation, **options):
        asked.append((implementation, options["is_causal"]))
        return dot_product_attention(*arrays, **options, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", instead)
    shape = make_shape(40, 40 + offset, *heads, dtype="bfloat16")
    arrays, segments = make_inputs(shape, offset=offset)

    def value_and_gradients(implementation):
        def attend(arrays):
            rest = dict(arrays)
            qkv = [rest.pop(name) for name in ("q_BTNH", "k_BSJH", "v_BSJU")]
            options = {"scale": 0.3, "q_offset": offset, "implementation": implementation}
            return flash_attention(*qkv, **segments, **rest, **options).astype(jnp.float32)

        @jax.jit
        def both(arrays):
            out, pull = jax.vjp(attend, arrays)
            return {"out": out} | pull(jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape))[0]

        return both(arrays)

    got, want = value_and_gradients("cudnn"), value_and_gradients("reference")
    assert asked == [("cudnn", offset == 0)]
    hidden = segments["q_segments_BT"] == 0
    assert hidden.any() and not np.asarray(got["out"])[hidden].any() and not np.asarray(got["q_BTNH"])[hidden].any()
    for name, array in want.items():
        largest = np.abs(np.asarray(array, np.float32)).max()
        error = np.abs(np.asarray(got[name], np.float32) - np.asarray(array, np.float32)).max()
        assert error < 0.02 * largest, name  # two bfloat16 computations


def arrays_of(queries=64, keys=64, heads=4, kv_heads=2, head_dim=64, value_dim=64, dtype="bfloat16"):
    sizes = (queries, heads, head_dim), (keys, kv_heads, head_dim), (keys, kv_heads, value_dim)
    return [jax.ShapeDtypeStruct((2, *size), jnp.dtype(dtype)) for size in sizes]


def attend(q, k, v, **more):
    segments = {name: jnp.ones(a.shape[:2], jnp.int32) for name, a in (("q_segments_BT", q), ("kv_segments_BS", k))}
    return CUDNN(q, k, v, **segments, **more).astype(jnp.float32).sum()


def lowered(function, *arrays, custom_calls=()):
    """Text of the program for a GPU."""
    checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in custom_calls]
    return jax.export.export(jax.jit(function), platforms=["cuda"], disabled_checks=checks)(*arrays).mlir_module()


def test_the_program_for_a_gpu_calls_cudnn_forward_and_backward(gpu, monkeypatch):
    """Lowered, not compiled: what cuDNN itself would refuse is not known."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)
    names = ["__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"]
    text = lowered(jax.grad(attend, (0, 1, 2)), *arrays_of(), custom_calls=names)
    assert "@__cudnn$fmhaScaleBiasSoftmax(" in text and "@__cudnn$fmhaScaleBiasSoftmaxBackward(" in text
    assert "CAUSAL" in text


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"dtype": "float32"}, r"bfloat16 or float16, not \['float32'\]"),
        ({"head_dim": 60, "value_dim": 60}, "multiples of 8 up to 128.*not keys of 60 with values of 60"),
        ({"head_dim": 264}, "up to 256.*not keys of 264 with values of 64"),
        ({"value_dim": 128}, "values no wider than keys.*not keys of 64 with values of 128"),
        ({"queries": 33}, "an even number of queries and of keys, not 33 and 64"),
        ({"kv_heads": 3}, "4 query heads for 3 key heads"),
    ],
)
def test_what_it_does_not_take_is_named(sizes, message, gpu):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(attend, *arrays_of(**sizes))


def test_mla_needs_hopper(gpu, monkeypatch):
    monkeypatch.setattr(hardware, "gpu_capability", lambda: (8, 0))
    with pytest.raises(
        ValueError, match=r"from compute capability 9.0 on up to 256.*not keys of 192 with values of 128"
    ):
        jax.eval_shape(attend, *arrays_of(head_dim=192, value_dim=128))


def test_it_needs_a_gpu():
    with pytest.raises(ValueError, match="flash_attention: implementation 'cudnn' needs an NVIDIA GPU.*'cpu'"):
        jax.eval_shape(attend, *arrays_of())
    device = jax.sharding.AbstractDevice("TPU v6 lite", 1, "tpu")
    mesh = jax.sharding.AbstractMesh((1,), ("device",), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh), pytest.raises(ValueError, match="needs an NVIDIA GPU.*'tpu'"):
        jax.eval_shape(attend, *arrays_of())


def test_without_a_name_a_gpu_gets_what_xla_knows(gpu):
    """Blocks of attention, the router's reference, three ragged_dot, blocks of the vocabulary: all lowered, with gradients."""

    def loss(x_TD, w_router_DE, w_gate_EDF, w_up_EDF, w_down_EFD, w_VD):
        q_BTNH = x_TD.reshape(1, -1, 2, 16)
        segments = {name: jnp.ones((1, 512), jnp.int32) for name in ("q_segments_BT", "kv_segments_BS")}
        x_TD = flash_attention(q_BTNH, q_BTNH, q_BTNH, **segments, scale=0.3).reshape(x_TD.shape)
        sizes = {"num_experts_per_token": 2, "num_groups": 2, "num_groups_per_token": 1, "scaling": 1.0}
        weights_TK, experts_TK, order = route_and_sort(x_TD @ w_router_DE, None, score_function="sigmoid", **sizes)
        x_TD = expert_ffn(x_TD, experts_TK, weights_TK, w_gate_EDF, w_up_EDF, w_down_EFD, order=order)
        return token_logprob(x_TD, w_VD, jnp.zeros(512, jnp.int32))[0].sum()

    sizes = [(512, 32), (32, 4), (4, 32, 16), (4, 32, 16), (4, 16, 32), (2048, 32)]
    text = lowered(jax.grad(loss, tuple(range(6))), *(jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes))
    assert text.count("chlo.ragged_dot") >= 3 and "custom_call" not in text
