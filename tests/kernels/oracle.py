"""Gradients that no kernel computes: those of a plain function, in float64."""

import jax
import jax.numpy as jnp
import numpy as np


def gradients_float64(loss, *arrays) -> list[np.ndarray]:
    """Of ``loss``, for each of the arrays, which it gets in float64."""
    with jax.enable_x64(True):
        exact = [jnp.asarray(np.asarray(a, np.float64)) for a in arrays]
        return [np.asarray(gradient) for gradient in jax.grad(loss, tuple(range(len(exact))))(*exact)]
