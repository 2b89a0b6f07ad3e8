import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax.specs.reader import read
from r1jax.specs.training import OptimizerSpec
from r1jax.training.optimizer import is_matrix, make_optimizer, make_rate


def rates(steps, **options):
    rate = make_rate(read(OptimizerSpec, {"learning_rate": 1.0} | options), total_steps=10)
    return [float(rate(step)) for step in steps]


def test_constant_with_warmup():
    np.testing.assert_allclose(
        rates(range(6), schedule="constant", warmup_steps=4), [0.25, 0.5, 0.75, 1, 1, 1], rtol=1e-6
    )
    np.testing.assert_allclose(rates([0, 9], schedule="constant"), [1, 1], rtol=1e-6)
    np.testing.assert_allclose(rates([0, 1, 2], schedule="constant", warmup_steps=1), [1, 1, 1], rtol=1e-6)


def test_cosine_ends_at_its_fraction():
    got = rates([0, 1, 2, 6, 10, 50], schedule="cosine", warmup_steps=2)
    np.testing.assert_allclose(got, [0.5, 1, 1, 0.55, 0.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"schedule": "linear"}, "schedule='linear' must be one of"),
        ({"schedule": "cosine", "warmup_steps": 10}, "warmup_steps=10 must be below the 10 updates"),
        ({"schedule": "cosine", "final_fraction": 1.5}, "final_fraction=1.5"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"learning_rate": float("inf")}, "learning_rate=inf"),
        ({"learning_rate": -1e-3}, "learning_rate=-0.001"),
    ],
)
def test_bad_schedule(options, message):
    with pytest.raises(ValueError, match=message):
        rates([0], **options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"clip_norm": 0.0}, "clip_norm=0.0 must be more than 0"),
        ({"clip_norm": float("nan")}, "clip_norm=nan must be finite"),
        ({"b1": 1.0}, r"b1=1.0 must be in \[0, 1\)"),
        ({"b2": float("nan")}, "b2=nan must be finite"),
        ({"eps": 0.0}, "eps=0.0 must be more than 0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1 must be at least 0"),
        ({"moments_dtype": "float16"}, "moments_dtype='float16' must be one of"),
        (
            {"moments_dtype": "bfloat16", "b2": 0.999},
            "moments_dtype='bfloat16' needs b1=0.9 and b2=0.999 below 0.99609375",
        ),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        read(OptimizerSpec, options)


def test_decay_is_told_by_name():
    stacked = jnp.zeros((2, 3))
    assert is_matrix("dense/attention/w_q_DNH", stacked)
    assert is_matrix("embed_VD", stacked)
    assert not is_matrix("dense/attention_norm/scale", stacked)
    assert not is_matrix("dense/attention/b_q_NH", stacked)
    assert not is_matrix("dense/q_bias_NH", stacked)
    assert not is_matrix("dense/w_D", jnp.zeros((3,)))


def test_weight_decay_moves_matrices_only():
    params = {"layers": {"w": jnp.ones((2, 3, 3)), "scale": jnp.ones((2, 3))}}
    optimizer, _ = make_optimizer(OptimizerSpec(learning_rate=0.1, weight_decay=0.5), total_steps=10)
    zero = {"layers": {"w": jnp.zeros((2, 3, 3)), "scale": jnp.zeros((2, 3))}}
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_allclose(updates["layers"]["w"], np.full((2, 3, 3), -0.05), rtol=1e-6)
    np.testing.assert_array_equal(updates["layers"]["scale"], np.zeros((2, 3)))


def test_what_is_not_used_is_not_decayed():
    params = {"mtp": {"w": jnp.full((3, 3), 0.1)}, "moe": {"w": jnp.full((3, 3), 0.1)}}
    spec = OptimizerSpec(learning_rate=0.1, weight_decay=0.5)
    optimizer, _ = make_optimizer(spec, total_steps=10, unused=("mtp",))
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["mtp"]["w"], 0)
    np.testing.assert_allclose(updates["moe"]["w"], -0.005, rtol=1e-6)


def test_adamw_literal_two_steps():
    # By hand: m = b1 m + (1 - b1) g, v likewise with g^2, both corrected for bias, step = rate * m / (sqrt(v) + eps).
    optimizer, _ = make_optimizer(OptimizerSpec(learning_rate=0.1, clip_norm=None), total_steps=10)
    params = {"w": jnp.array([[1.0]])}
    state = optimizer.init(params)
    updates, state = optimizer.update({"w": jnp.array([[2.0]])}, state, params)
    np.testing.assert_allclose(updates["w"], [[-0.1]], rtol=1e-6)
    updates, state = optimizer.update({"w": jnp.array([[-1.0]])}, state, params)
    # m = 0.9*0.2 - 0.1 = 0.08, / 0.19; v = 0.95*0.2 + 0.05 = 0.24, / 0.0975
    np.testing.assert_allclose(updates["w"], [[-0.1 * (0.08 / 0.19) / np.sqrt(0.24 / 0.0975)]], rtol=1e-5)


def numpy_adamw(params, gradients, *, rate, b1, b2, weight_decay):
    """AdamW in float64 (arXiv 1711.05101 Alg. 2); the parameters after each step."""
    m, v, steps = 0.0, 0.0, []
    for t, g in enumerate(gradients.astype(np.float64), start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        step = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + 1e-8) + weight_decay * params
        params = params - rate * step
        steps.append(params)
    return np.array(steps)


@pytest.mark.parametrize(("moments_dtype", "error"), [("float32", 2e-6), ("bfloat16", 4e-3)])
def test_moments_in_either_type_follow_adamw_in_float64(moments_dtype, error):
    """Relative error of the way from the start after 60 steps; each step is at most `rate` long for each parameter."""
    rng = np.random.default_rng(0)
    gradients = rng.normal(0.3, 1.0, (60, 16, 32)).astype(np.float32) * np.geomspace(1e-4, 10, 32, dtype=np.float32)
    start = rng.normal(size=(16, 32))
    options = {"b1": 0.9, "b2": 0.95, "weight_decay": 0.1}
    want = numpy_adamw(start, gradients, rate=0.01, **options)
    spec = OptimizerSpec(learning_rate=0.01, clip_norm=None, moments_dtype=moments_dtype, **options)
    optimizer, _ = make_optimizer(spec, total_steps=60)
    params = {"w": jnp.asarray(start, jnp.float32)}
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimizer.update({"w": gradient}, state, params)
        return optax.apply_updates(params, updates), state

    for gradient in gradients:
        params, state = step(params, state, gradient)
        for moment in (optax.tree.get(state, "mu"), optax.tree.get(state, "nu")):
            assert moment["w"].dtype == moments_dtype
    got = np.asarray(params["w"], np.float64)
    assert np.linalg.norm(got - want[-1]) / np.linalg.norm(want[-1] - start) < error
    if moments_dtype == "bfloat16":
        assert np.linalg.norm(got - want[-1]) / np.linalg.norm(want[-1] - start) > 1e-4  # they are rounded


def test_clipping_by_global_norm():
    # Adam hides the size of one gradient; the ratio of two shows the clip: the second is scaled from norm 10 to 1.
    optimizer, _ = make_optimizer(OptimizerSpec(learning_rate=1.0, clip_norm=1.0), total_steps=10)
    params = {"a": jnp.zeros((1,)), "b": jnp.zeros((1,))}
    state = optimizer.init(params)
    _, state = optimizer.update({"a": jnp.array([6.0]), "b": jnp.array([8.0])}, state, params)
    mu = optax.tree.get(state, "mu")
    np.testing.assert_allclose([mu["a"][0], mu["b"][0]], [0.06, 0.08], rtol=1e-6)


def test_mtp_is_clipped_by_a_norm_of_its_own():
    optimizer, _ = make_optimizer(OptimizerSpec(learning_rate=1.0, clip_norm=1.0), total_steps=10)
    params = {"mtp": {"w": jnp.zeros((2,))}, "w": jnp.zeros((2,))}
    gradient = {"mtp": {"w": jnp.array([300.0, 400.0])}, "w": jnp.array([0.3, 0.4])}
    _, state = optimizer.update(gradient, optimizer.init(params), params)
    mu = optax.tree.get(state, "mu")
    np.testing.assert_allclose(mu["mtp"]["w"], [0.06, 0.08], rtol=1e-6)
    np.testing.assert_allclose(mu["w"], [0.03, 0.04], rtol=1e-6)
