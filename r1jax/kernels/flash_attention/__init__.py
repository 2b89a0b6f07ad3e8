"""Causal attention within segments."""

from r1jax.kernels.flash_attention.reference import attention, attention_mask

__all__ = ["attention", "attention_mask"]
