"""The helpful reward model: Bradley-Terry on pairs, reads the summary alone (R1 Sec. 3.1, B.2; spec B.7).

Command:  python -m r1jax.run --config=configs/r1/reward_helpful.py --workdir=runs/r1/reward_helpful
Reads:    sft/supervised; preferences/preferences.
Hardware: planned for 256 TPU v5p chips; never run (python -m r1jax.plan counts the memory).
Expected: 253 updates; the paper reports no accuracy. Got: not run.

Chosen: a scalar for each response, though the paper's formula shows one of two (G.14). Its mean over held-out responses
becomes the centre of the reward in RL (r1jax.rewards.learned).
"""

from ml_collections import ConfigDict
from recipe import experiment, made_by, reward_model


def get_config() -> ConfigDict:
    """One reward-model stage."""
    return experiment(reward_model=reward_model("helpful", made_by("preferences", "preferences")))
