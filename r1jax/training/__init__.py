"""The update step: train state, optimizer, checkpoints."""
