"""Policies: what a stage starts from and leaves, and the models that judge, rewrite and reward."""
