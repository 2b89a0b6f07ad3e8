"""r1jax: DeepSeek-R1 in JAX."""
