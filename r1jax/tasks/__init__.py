"""Sources of problems: generated, reasoning-gym, and mixtures of them. No jax."""
