"""That the checks which the kernels pass can fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from tests.kernels.interpreter import STRICT, races_found


def total(x, semantics, *, forgets=False):
    """Σ over the blocks of x, in one block that stays in VMEM: right only if the grid is walked in order, by one core."""

    def kernel(x_ref, out_ref):
        if not forgets:

            @pl.when(pl.program_id(0) == 0)
            def _():
                out_ref[...] = jnp.zeros_like(out_ref)

        out_ref[...] += x_ref[...]

    return pl.pallas_call(
        kernel,
        grid=(4,),
        in_specs=[pl.BlockSpec((8, 128), lambda i: (i, 0))],
        out_specs=pl.BlockSpec((8, 128), lambda i: (0, 0)),
        out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32),
        compiler_params=pltpu.CompilerParams(dimension_semantics=(semantics,)),
        interpret=STRICT,
    )(x)


def test_a_sum_over_a_parallel_dim_is_a_race_whatever_runs_after_it():
    x = jnp.ones((32, 128))
    total(x, "parallel")
    np.testing.assert_array_equal(total(x, "arbitrary"), 4)
    assert races_found()
    total(x, "arbitrary")
    assert not races_found()


def test_memory_that_was_never_written_is_nan():
    assert np.isnan(total(jnp.ones((32, 128)), "arbitrary", forgets=True)).all()
    assert not races_found()


def test_no_kernel_is_no_proof():
    with pytest.raises(AssertionError, match="no kernel was interpreted"):
        races_found()
