import jax.numpy as jnp
import numpy as np
from flax import nnx

from r1jax.models.layers import RMSNorm, SwiGLU, project


def test_rms_norm_equals_numpy():
    norm = RMSNorm(4, eps=1e-2)
    norm.scale.set_value(jnp.array([1.0, 2.0, 0.5, -1.0]))
    x = np.array([[1.0, -2.0, 3.0, 0.5], [0.01, 0.0, 0.02, 0.0]])  # the second row is of eps's size
    want = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-2) * [1.0, 2.0, 0.5, -1.0]
    np.testing.assert_allclose(norm(jnp.array(x, jnp.float32)), want, rtol=1e-6)
    # 300² overflows no float32; a bfloat16 mean of these would lose the small entries.
    big = np.array([300.0, 1.0, 1.0, 1.0])
    out = norm(jnp.array(big, jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    want = big / np.sqrt((big**2).mean() + 1e-2) * [1.0, 2.0, 0.5, -1.0]
    np.testing.assert_allclose(np.array(out, np.float32), want, rtol=1e-2)


def test_swiglu_equals_numpy():
    rngs = nnx.Rngs(params=0)
    ffn = SwiGLU(3, 5, std=0.5, rngs=rngs)
    gate, up, down = (np.array(w[...], np.float64) for w in (ffn.w_gate_DF, ffn.w_up_DF, ffn.w_down_FD))
    x = np.random.default_rng(0).normal(size=(1, 2, 3))
    a = x @ gate
    want = (a / (1 + np.exp(-a)) * (x @ up)) @ down
    np.testing.assert_allclose(ffn(jnp.array(x, jnp.float32)), want, rtol=1e-5, atol=1e-6)


def test_project_sums_in_float32_and_keeps_the_inputs_type():
    x = np.ones((1, 4096), jnp.bfloat16)
    w = np.full((4096, 1), 1.0, np.float32)
    out = project(jnp.array(x), w)
    assert out.dtype == jnp.bfloat16 and float(out[0, 0]) == 4096.0  # a bfloat16 sum of ones would stop at 256


def test_project_contracts_the_last_dims_with_the_first():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 3, 4, 5)).astype(np.float32), rng.normal(size=(4, 5, 6)).astype(np.float32)
    out = project(jnp.array(x), w, num_contracted=2)
    np.testing.assert_allclose(out, np.einsum("btnh,nhd->btd", x, w), rtol=1e-5, atol=1e-5)
