"""Objectives: pure functions of arrays, from rewards to advantages to a loss."""
