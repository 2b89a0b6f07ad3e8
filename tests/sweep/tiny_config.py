"""A base model and GRPO, a few updates each of a tiny model."""

from ml_collections import ConfigDict

from tests.tiny import POLICY


def get_config():
    base = {
        "stage": "supervised", "init": POLICY, "data": POLICY["tokenizer"]["source"], "template": "plain",
        "row_length": 256, "documents_per_update": 4, "num_updates": 2,
    }  # fmt: skip
    rl = {
        "stage": "rl", "init": {"kind": "stage", "path": "{base}"}, "tasks": [{"kind": "mini", "name": "pair_sum"}],
        "template": "plain", "rewards": [{"function": "r1jax.rewards.format:r1_zero"}], "group_size": 2,
        "questions_per_phase": 2, "updates_per_phase": 1, "num_updates": 2, "max_prompt_tokens": 64, "max_new_tokens": 8,
        "eval": {"every": 1, "problems": 2, "final_problems": 2, "samples": 2, "final_samples": 2},
    }  # fmt: skip
    return ConfigDict({"stages": ConfigDict({"base": base, "rl": rl}, sort_keys=False)})
