"""Reward functions and their weighted sum. No jax: they run in worker processes.

What many take, [N] each; a docstring explains what else a reward takes, and the rest it does not use:

    prompts: what the responses follow; one that ends with ``<think>`` has opened the thought.
    completions: the responses.
    completion_ids: the tokens of each response.
    stop_reason: "length" marks a response that was cut off at the length limit: it has no final answer (spec G.12).
"""
