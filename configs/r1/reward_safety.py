"""The safety reward model: binary labels, reads the whole response (R1 Sec. 3.1, B.2; spec B.7).

Command:  python -m r1jax.run --config=configs/r1/reward_safety.py --workdir=runs/r1/reward_safety
Reads:    sft/supervised; data/safety.jsonl: {"messages": [...], "response": "...", "is_safe": true}, 106,000 prompts in the paper.
Hardware: planned for 256 TPU v5p chips; never run (python -m r1jax.plan counts the memory).
Expected: 406 updates for as many examples; the paper reports no accuracy. Got: not run.
"""

from ml_collections import ConfigDict
from recipe import data, experiment, reward_model


def get_config() -> ConfigDict:
    """One reward-model stage."""
    return experiment(reward_model=reward_model("safety", data("safety")["path"]))
