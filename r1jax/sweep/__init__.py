"""Many runs of one config with other settings, by optuna."""
