import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models.config import Llama3Rope, Yarn
from r1jax.models.presets import make_preset
from r1jax.models.rope import apply_rope, rope_angles, rope_frequencies, yarn_mscale

V3_YARN = Yarn(factor=40.0, original_length=4096)


def test_yarn_golden_numbers():
    """Spec A.4.2: low 10, high 23."""
    plain, scaled = rope_frequencies(64, 10_000.0, None), rope_frequencies(64, 10_000.0, V3_YARN)
    np.testing.assert_allclose(scaled[[0, 10, 16, 23]], [1.0, 0.0562341, 0.0055, 10 ** (-46 / 16) / 40], rtol=1e-5)
    np.testing.assert_array_equal(scaled[:11], plain[:11])
    assert scaled[11] < plain[11] and scaled[22] > plain[22] / 40
    np.testing.assert_allclose(scaled[23:], plain[23:] / 40, rtol=1e-6)


def test_llama3_golden_numbers():
    """Spec A.8.2: wavelengths up to 2048 tokens stay, from 8192 on they are 8 times as long, a ramp lies between."""
    plain, scaled = (rope_frequencies(128, 500_000.0, s) for s in (None, Llama3Rope(8.0, 1.0, 4.0, 8192)))
    wavelengths = 2 * np.pi / plain
    short, long = wavelengths < 2048, wavelengths > 8192
    assert (short.sum(), long.sum()) == (29, 29)
    np.testing.assert_array_equal(scaled[short], plain[short])
    np.testing.assert_allclose(scaled[long], plain[long] / 8, rtol=1e-6)
    t = (8192 / wavelengths[31] - 1) / 3
    assert scaled[31] == pytest.approx(plain[31] * t + plain[31] / 8 * (1 - t), rel=1e-5)
    assert 0.1 < t < 0.9


@pytest.mark.parametrize(("mscale", "want"), [(1.0, 1.3688879), (0.707, 1.2608038)])
def test_yarn_mscale(mscale, want):
    assert yarn_mscale(40.0, mscale) == pytest.approx(want, rel=1e-6)
    assert yarn_mscale(1.0, mscale) == yarn_mscale(0.5, mscale) == 1.0


def test_v3_does_not_scale_cos_and_sin():
    cos, sin = rope_angles(make_preset("deepseek_v3"), np.array([[0, 3]]))
    np.testing.assert_allclose(cos[0, 0], 1.0)
    np.testing.assert_allclose([cos[0, 1, 0], sin[0, 1, 0]], [np.cos(3.0), np.sin(3.0)], rtol=1e-6)


def rotations(interleaved):
    """One vector of four numbers turned by angles 0.3 and 0.7, by complex multiplication."""
    x = np.array([1.0, 2.0, 3.0, 4.0])
    pairs = [(0, 1), (2, 3)] if interleaved else [(0, 2), (1, 3)]
    out = np.zeros(4)
    for (a, b), angle in zip(pairs, (0.3, 0.7), strict=True):
        z = (x[a] + 1j * x[b]) * np.exp(1j * angle)
        out[a], out[b] = z.real, z.imag
    return x, out


@pytest.mark.parametrize("interleaved", [True, False])
def test_layouts(interleaved):
    x, want = rotations(interleaved)
    cos, sin = (jnp.array(f([[[0.3, 0.7]]]), jnp.float32) for f in (np.cos, np.sin))
    shared = apply_rope(jnp.array(x, jnp.float32)[None, None], cos, sin, interleaved=interleaved)
    np.testing.assert_allclose(shared[0, 0], want, rtol=1e-6)
    by_head = apply_rope(jnp.array([x, 2 * x], jnp.bfloat16)[None, None], cos, sin, interleaved=interleaved)
    assert by_head.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.array(by_head[0, 0], np.float32), [want, 2 * want], rtol=2e-2)
