"""Many runs of one config with other settings, by optuna."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="IProgress not found")  # what optuna imports wants widgets in a notebook
    import optuna  # noqa: F401
