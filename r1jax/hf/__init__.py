"""Other people's checkpoints: Hugging Face names and folders, GGUF files, and our parameter tree."""

from r1jax.hf.pretrained import Pretrained, load_pretrained, save_pretrained

__all__ = ["Pretrained", "load_pretrained", "save_pretrained"]
