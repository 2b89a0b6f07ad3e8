"""Other people's checkpoints: Hugging Face names and folders, GGUF files, and our parameter tree."""
