"""Log-probability and entropy of given tokens, without the [B, T, V] logits."""

from r1jax.kernels.token_logprob.reference import token_logprob

__all__ = ["token_logprob"]
