"""Evaluation: samples of held-out problems, and what they say with intervals."""
