"""One GRPO step of SmolLM2-135M as other libraries are measured on: 8 questions x 8 samples, 64 tokens in, 64 out.

    r1jax bench grpo_step --config=r1jax/bench/grpo_smollm2.py:bfloat16 --prompt-tokens=64

The argument is the type that is computed in.
"""

from ml_collections import ConfigDict


def get_config(dtype: str = "float32") -> ConfigDict:
    """An RL stage with a reference model and one update a phase."""
    stage = {
        "stage": "rl",
        "init": {"kind": "gguf", "path": "smollm2", "model": {"dtype": dtype}},
        "tasks": [{"kind": "reasoning_gym", "dataset": "chain_sum"}],
        "rewards": [{"function": "r1jax.rewards.accuracy:accuracy_reward"}],
        "template": "plain",
        "questions_per_phase": 8,
        "group_size": 8,
        "max_prompt_tokens": 64,
        "max_new_tokens": 64,
        "kl_coef": 0.001,
        "row_length": 576,
        "rows_per_microbatch": 2,
    }
    return ConfigDict({"seed": 0, "stages": {"rl": stage}})
