import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.objectives.sums import add_metrics, check_shapes, mean_metrics, segment_sum, token_weights

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


# Row 0: a prompt token and 3 generated, then a sequence of 1 + 1, then padding. Row 1: 2 + 4, no padding.
IDS_BT = jnp.array([[1, 1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0]])
MASK_BT = jnp.array([[0, 1, 1, 1, 0, 1, 0, 0], [0, 0, 1, 1, 1, 1, 0, 0]])


def test_segment_sum_stays_within_row_and_sequence():
    values_BT = jnp.array([[1.0, 2, 3, 4, 10, 20, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0]])
    got_BT = segment_sum(values_BT, IDS_BT)
    np.testing.assert_array_equal(got_BT, [[10, 10, 10, 10, 30, 30, 0, 0], [6, 6, 6, 6, 6, 6, 0, 0]])


def test_sequences_of_one_token_fill_a_row():
    ids_BT = jnp.arange(1, 5)[None]
    np.testing.assert_array_equal(segment_sum(jnp.array([[1.0, 2, 3, 4]]), ids_BT), [[1, 2, 3, 4]])


def test_sequence_aggregation_literal():
    got_BT = token_weights(MASK_BT, IDS_BT, aggregation="sequence", num_sequences=3)
    third = 1 / 3
    want_BT = [[0, third / 3, third / 3, third / 3, 0, third, 0, 0], [0, 0] + [third / 4] * 4 + [0, 0]]
    np.testing.assert_allclose(got_BT, want_BT, rtol=1e-6)
    assert got_BT.sum() == pytest.approx(1.0)


def test_token_aggregation_literal():
    got_BT = token_weights(MASK_BT, IDS_BT, aggregation="token", num_tokens=8)
    np.testing.assert_array_equal(got_BT, np.asarray(MASK_BT) / 8)


def test_constant_aggregation_literal():
    got_BT = token_weights(MASK_BT, IDS_BT, aggregation="constant", num_sequences=3, constant=16.0)
    np.testing.assert_allclose(got_BT, np.asarray(MASK_BT) / 48, rtol=1e-6)


def test_truncated_sequence_left_out_by_mask():
    mask_BT = MASK_BT.at[1].set(0)  # the sequence of row 1 was cut off
    got_BT = token_weights(mask_BT, IDS_BT, aggregation="sequence", num_sequences=2)
    np.testing.assert_allclose(got_BT, [[0, 1 / 6, 1 / 6, 1 / 6, 0, 1 / 2, 0, 0], [0] * 8], rtol=1e-6)


def test_mask_in_padding_is_ignored():
    got_BT = token_weights(jnp.ones((2, 8)), IDS_BT, aggregation="token", num_tokens=12)
    np.testing.assert_array_equal(got_BT[:, 6:], 0)
    assert got_BT.sum() == pytest.approx(1.0)


def test_nothing_in_the_mask_weighs_nothing():
    none_BT = jnp.zeros((2, 8))
    for aggregation, counts in (
        ("sequence", {"num_sequences": 0}),
        ("token", {"num_tokens": 0}),
        ("constant", {"num_sequences": 0, "constant": 16.0}),
    ):
        np.testing.assert_array_equal(token_weights(none_BT, IDS_BT, aggregation=aggregation, **counts), 0)


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"aggregation must be one of .*'tokens'"):
        token_weights(MASK_BT, IDS_BT, aggregation="tokens")
    with pytest.raises(ValueError, match="'token' needs num_tokens"):
        token_weights(MASK_BT, IDS_BT, aggregation="token", num_sequences=3)
    with pytest.raises(ValueError, match="'constant' needs constant"):
        token_weights(MASK_BT, IDS_BT, aggregation="constant", num_sequences=3)
    with pytest.raises(ValueError, match="segment_ids_BT has shape"):
        token_weights(MASK_BT, IDS_BT[:1], aggregation="token", num_tokens=8)


def test_equal_shapes_pass_and_none_is_left_out():
    check_shapes(2, a_BT=jnp.zeros((2, 3)), b_BT=None, c_BT=jnp.zeros((2, 3), bool))


def test_wrong_rank_names_the_array():
    with pytest.raises(ValueError, match=r"b_BT must have 2 dims, got shape \(3,\)"):
        check_shapes(2, a_BT=jnp.zeros((2, 3)), b_BT=jnp.zeros(3))


def test_other_shape_names_both():
    with pytest.raises(ValueError, match=r"b_BT has shape \(3, 2\), a_BT has \(2, 3\)"):
        check_shapes(2, a_BT=jnp.zeros((2, 3)), b_BT=jnp.zeros((3, 2)))
