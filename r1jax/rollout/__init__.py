"""Sampling: the engine, its caches of pages, the weights it is lent, and scored groups."""
