"""The toy world: generated problems and texts that a model of a few million parameters can learn on two CPU cores."""
