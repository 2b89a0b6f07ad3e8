import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels.route import route as route_eagerly

STATIC = ("num_experts_per_token", "num_groups", "num_groups_per_token", "scaling", "best_per_group", "normalize")
route = jax.jit(route_eagerly, static_argnames=STATIC)


def route_numpy(affinity, bias, *, num_chosen, num_groups, num_kept, scaling, best_per_group=2, normalize=True):
    """Spec A.5.1 (V2: A.1.2), one row after the other, ties to the lowest index."""
    weights, experts = [], []
    for s in affinity:
        chosen_by = s + bias
        groups = np.split(np.arange(len(s)), num_groups)
        score = [np.sort(chosen_by[group])[::-1][:best_per_group].sum() for group in groups]
        kept = sorted(range(num_groups), key=lambda g: (-score[g], g))[:num_kept]
        candidates = [e for g in kept for e in groups[g]]
        best = sorted(candidates, key=lambda e: (-chosen_by[e], e))[:num_chosen]
        experts.append(best)
        weights.append(scaling * s[best] / (s[best].sum() if normalize else 1.0))
    return np.array(weights), np.array(experts)


def route_one(affinity, bias, *, k=2, groups=1, kept=1, scaling=1.0, **options):
    weights, experts = route(
        np.array([affinity], np.float32),
        None if bias is None else np.array(bias, np.float32),
        num_experts_per_token=k,
        num_groups=groups,
        num_groups_per_token=kept,
        scaling=scaling,
        **options,
    )
    return np.array(weights[0]), np.array(experts[0]).tolist()


@pytest.mark.parametrize(
    ("num_experts", "num_chosen", "num_groups", "num_kept"), [(8, 2, 1, 1), (16, 4, 4, 2), (256, 8, 8, 4), (6, 3, 6, 3)]
)
def test_equals_numpy(num_experts, num_chosen, num_groups, num_kept):
    rng = np.random.default_rng(num_experts)
    affinity = rng.uniform(0.05, 0.95, (50, num_experts)).astype(np.float32)
    bias = rng.normal(0, 0.3, num_experts).astype(np.float32)
    sizes = {"num_experts_per_token": num_chosen, "num_groups": num_groups, "num_groups_per_token": num_kept}
    weights, experts = route(affinity, bias, **sizes, scaling=2.5)
    want_weights, want_experts = route_numpy(
        affinity, bias, num_chosen=num_chosen, num_groups=num_groups, num_kept=num_kept, scaling=2.5
    )
    np.testing.assert_array_equal(experts, want_experts)
    np.testing.assert_allclose(weights, want_weights, rtol=1e-6)
    np.testing.assert_allclose(weights.sum(1), 2.5, rtol=1e-6)
    num_groups_used = [len(set(row // (num_experts // num_groups))) for row in np.array(experts)]
    assert max(num_groups_used) <= num_kept


@pytest.mark.parametrize(
    ("num_experts", "num_chosen", "num_groups", "num_kept"), [(64, 6, 1, 1), (160, 6, 8, 3), (9, 1, 3, 1)]
)
def test_softmax_router_of_v2_equals_numpy(num_experts, num_chosen, num_groups, num_kept):
    """V2-Lite's shape, V2's, and three groups with one expert a token: best of a group, no bias, not renormalised."""
    logits = np.random.default_rng(num_experts).normal(size=(50, num_experts))
    affinity = np.array(jax.nn.softmax(jnp.array(logits, jnp.float32)))
    v2 = {"scaling": 16.0, "best_per_group": 1, "normalize": False}
    sizes = {"num_experts_per_token": num_chosen, "num_groups": num_groups, "num_groups_per_token": num_kept}
    weights, experts = route(affinity, None, **sizes, **v2)
    want_weights, want_experts = route_numpy(
        affinity, 0.0, num_chosen=num_chosen, num_groups=num_groups, num_kept=num_kept, **v2
    )
    np.testing.assert_array_equal(experts, want_experts)
    np.testing.assert_allclose(weights, want_weights, rtol=1e-6)


def test_v2s_group_score_is_its_best():
    affinity = [0.3, 0.01, 0.2, 0.2, 0.29, 0.0]  # the second group has the best pair
    assert route_one(affinity, None, groups=3, kept=1)[1] == [2, 3]
    weights, experts = route_one(affinity, None, groups=3, kept=1, best_per_group=1, normalize=False, scaling=2.0)
    assert experts == [0, 1]
    np.testing.assert_allclose(weights, [0.6, 0.02], rtol=1e-6)


def test_bias_moves_selection_and_never_weights():
    affinity = [0.8, 0.4, 0.2, 0.1]
    weights, experts = route_one(affinity, [0.0, 0.0, 0.0, 0.0])
    assert experts == [0, 1]
    np.testing.assert_allclose(weights, [2 / 3, 1 / 3], rtol=1e-6)
    weights, experts = route_one(affinity, [0.0, 0.0, 0.0, 5.0])
    assert experts == [3, 0]  # 5.1, then 0.8
    np.testing.assert_allclose(weights, [1 / 9, 8 / 9], rtol=1e-6)  # 0.1 and 0.8, not 5.1 and 0.8


def test_a_groups_score_is_the_sum_of_its_two_best():
    # The best single expert is in the first group, the best pair in the second, the best sum of all in the third.
    affinity = [0.9, 0.1, 0.1, 0.6, 0.6, 0.1, 0.45, 0.45, 0.45]
    weights, experts = route_one(affinity, [0.0] * 9, groups=3, kept=1)
    assert experts == [3, 4]
    np.testing.assert_allclose(weights, [0.5, 0.5], rtol=1e-6)


def test_discarded_groups_are_never_chosen_however_negative_the_bias():
    # All of the kept group is below zero: were the discarded ones set to 0 and not to -inf, they would be chosen.
    bias = [-10.0, -10.0, -20.0, -20.0]
    _, experts = route_one([0.6, 0.5, 0.9, 0.9], bias, groups=2, kept=1)
    assert experts == [0, 1]


def test_ties_go_to_the_lowest_index():
    assert route_one([0.5] * 4, [0.0] * 4, groups=2, kept=1)[1] == [0, 1]
    assert route_one([0.5] * 4, [0.0] * 4)[1] == [0, 1]


def test_gradient_reaches_the_chosen_affinities_and_not_the_bias():
    def weight_of_first(affinity_E, bias_E):
        sizes = {"num_experts_per_token": 2, "num_groups": 1, "num_groups_per_token": 1}
        return route(affinity_E[None], bias_E, **sizes, scaling=1.0)[0][0, 0]

    d_affinity, d_bias = jax.jit(jax.grad(weight_of_first, argnums=(0, 1)))(jnp.array([0.6, 0.2, 0.1]), jnp.zeros(3))
    np.testing.assert_allclose(d_affinity, [0.2 / 0.64, -0.6 / 0.64, 0.0], rtol=1e-5)  # of s0 / (s0 + s1)
    np.testing.assert_array_equal(d_bias, 0.0)
