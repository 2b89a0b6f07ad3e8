"""Preference pairs: a judge compares two responses four times in random order; clear cases stay (R1 Sec. 3.1; spec B.7).

Command:  python -m r1jax.run --config=configs/r1/preferences.py --workdir=runs/r1/preferences
Reads:    data/candidates.jsonl: {"messages": [...], "responses": [two texts]}, general prompts; a judge at recipe.ENDPOINT.
Hardware: planned for one host: the judge runs elsewhere; never run (python -m r1jax.plan counts the memory).
Expected: 66,000 pairs. Got: not run.

Chosen: the five marks count 2, 1, 0, -1, -2, so that a mean beyond 1 is more than "slightly better" (G.15). Where the
candidates come from the paper does not say; any two models will do, or two samples of one.
"""

from ml_collections import ConfigDict
from recipe import ENDPOINT, data, experiment


def get_config() -> ConfigDict:
    """One stage, which asks and writes."""
    preferences = {
        "stage": "preferences",
        "mesh": {},
        "candidates": data("candidates"),
        "judge": {"function": "r1jax.text.comparison:compare_by_model", "chat": ENDPOINT},
        "queries": 4,
        "threshold": 1.0,
        "candidates_per_batch": 256,
    }
    return experiment(preferences=preferences)
