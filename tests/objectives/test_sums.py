import jax
import jax.numpy as jnp
import pytest

from r1jax.objectives.sums import add_metrics, mean_metrics

FIRST = {"kl": jnp.float32(3), "num_tokens": jnp.float32(4), "max": {"ratio/max": jnp.float32(5)}}
SECOND = {"kl": jnp.float32(1), "num_tokens": jnp.float32(12), "max": {"ratio/max": jnp.float32(2)}}


def test_sums_add_and_maxima_do_not():
    joined = add_metrics(FIRST, SECOND)
    assert joined == {"kl": 4, "num_tokens": 16, "max": {"ratio/max": 5}}
    assert add_metrics(SECOND, FIRST) == joined
    assert add_metrics(jax.tree.map(jnp.zeros_like, FIRST), FIRST) == FIRST
    assert add_metrics({"grpo": FIRST}, {"grpo": SECOND}) == {"grpo": joined}


def test_means_divide_once_by_tokens():
    means = mean_metrics({**add_metrics(FIRST, SECOND), "loss": jnp.float32(-0.5)})
    assert means == {"kl": 0.25, "num_tokens": 16, "ratio/max": 5, "loss": -0.5}


def test_no_tokens_give_zeros():
    assert mean_metrics(jax.tree.map(jnp.zeros_like, FIRST)) == {"kl": 0, "num_tokens": 0, "ratio/max": 0}


def test_other_structure_is_an_error():
    with pytest.raises(ValueError):
        add_metrics(FIRST, {**SECOND, "entropy": jnp.float32(1)})
