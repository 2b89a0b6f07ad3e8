"""Tokenizers, prompt templates, and the parts of a response. No jax."""
