import jax
import jax.numpy as jnp
import numpy as np

from r1jax.models.moe import balance_sum

E, K = 6, 2
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [4, 4, 4, 4, 4, 4]])


def balance_numpy(affinity, segments):
    """V3 Eqs. 17-20 without α, one sequence after the other."""
    total = 0.0
    for row, segment in {(b, s) for b in range(len(segments)) for s in segments[b] if s}:
        tokens = affinity[row][segments[row] == segment]
        counts = np.zeros(E)
        for s in tokens:
            counts[np.argsort(-s)[:K]] += 1
        f = E / (K * len(tokens)) * counts
        p = np.mean([s / s.sum() for s in tokens], axis=0)
        total += (f * p).sum()
    return total


def test_balance_sum_equals_the_equations():
    affinity = np.random.default_rng(0).uniform(0.05, 0.95, (2, 6, E)).astype(np.float32)
    f = jax.jit(jax.value_and_grad(lambda a: balance_sum(a, SEGMENTS, num_experts_per_token=K)))
    value, gradient = f(affinity)
    np.testing.assert_allclose(value, balance_numpy(affinity, SEGMENTS), rtol=1e-6)
    np.testing.assert_array_equal(gradient[0, 5], 0.0)  # padding
    # Counts have no gradient and do not change in so small a step: a finite difference sees P alone.
    step = np.random.default_rng(1).normal(size=affinity.shape) * 1e-4
    rise = balance_numpy(affinity + step, SEGMENTS) - balance_numpy(affinity - step, SEGMENTS)
    np.testing.assert_allclose((gradient * step).sum(), rise / 2, rtol=1e-3)


def test_even_routing_gives_one_a_sequence():
    """Spec A.5.3: token t takes experts 2t and 2t + 1 of 6, three tokens a sequence."""
    affinity = np.full((1, 6, E), 0.5, np.float32)
    for t in range(6):
        affinity[0, t, [2 * t % E, 2 * t % E + 1]] = 0.7
    segments = jnp.array([[1, 1, 1, 2, 2, 2]])
    np.testing.assert_allclose(balance_sum(affinity, segments, num_experts_per_token=K), 2.0, rtol=1e-6)
    collapsed = np.broadcast_to(affinity[:, :1], affinity.shape)
    assert balance_sum(collapsed, segments, num_experts_per_token=K) > 2.1
