import jax.numpy as jnp
import pytest

from r1jax.objectives.shapes import check_shapes


def test_equal_shapes_pass_and_none_is_left_out():
    check_shapes(2, a_BT=jnp.zeros((2, 3)), b_BT=None, c_BT=jnp.zeros((2, 3), bool))


def test_wrong_rank_names_the_array():
    with pytest.raises(ValueError, match=r"b_BT must have 2 dims, got shape \(3,\)"):
        check_shapes(2, a_BT=jnp.zeros((2, 3)), b_BT=jnp.zeros(3))


def test_other_shape_names_both():
    with pytest.raises(ValueError, match=r"b_BT has shape \(3, 2\), a_BT has \(2, 3\)"):
        check_shapes(2, a_BT=jnp.zeros((2, 3)), b_BT=jnp.zeros((3, 2)))
