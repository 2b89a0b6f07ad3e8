"""Choice of experts."""

from r1jax.kernels.route.reference import route

__all__ = ["route"]
