"""The shape check that every objective starts with."""

import jax
import jax.numpy as jnp
import numpy as np


def check_shapes(rank: int, **arrays: jax.Array | np.ndarray | None) -> None:
    """Raises ValueError, naming the array, unless all arrays that are not None have this rank and one shape."""
    shapes = {name: jnp.shape(array) for name, array in arrays.items() if array is not None}
    first_name, first = next(iter(shapes.items()))
    for name, shape in shapes.items():
        if len(shape) != rank:
            raise ValueError(f"{name} must have {rank} dims, got shape {shape}")
        if shape != first:
            raise ValueError(f"{name} has shape {shape}, {first_name} has {first}")
