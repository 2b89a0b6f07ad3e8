"""Resumable grain pipelines: prompts and documents."""
