"""The smallest R1-Zero that learns: a base model of 0.1 million parameters, then GRPO. For notebooks and first tries.

Command:  r1jax run --config=configs/tiny.py --workdir=runs/tiny
Hardware: two CPU cores. Time: a minute and a half while other jobs shared the cores (91 s, 35 s of it RL; load 10);
          with the cores free not measured
Expected: held-out pass@1 (64 problems, 8 samples) from about a quarter to about a half. Got for seeds 0, 1, 2 of RL: 0.268 -> 0.496,
          0.484, 0.453; mean length 18 -> 26 tokens
Paper:    R1v2 Sec. 2, in one point of its scale.

All seeds start from one base: only RL follows the seed.
"""

from ml_collections import ConfigDict

PAIRS = {"count": 3, "low": 1, "high": 12, "heldout_fraction": 0.2}


def get_config() -> ConfigDict:
    """The base and the RL stage."""
    corpus = {"function": "r1jax.tasks.mini.corpus:corpus_text", "arguments": {"config": PAIRS}}
    base = {
        "stage": "supervised",
        "workdir": "{workdir}/../base-{hash}",
        "seed": 0,
        "init": {
            "kind": "random",
            "preset": "mini_qwen",
            "model": {"model_dim": 64, "num_layers": 2, "ffn_dim": 192, "head_dim": 16, "init_std": 0.05},
            "tokenizer": {"source": corpus, "num_texts": 500, "vocab_size": 384},
        },
        "data": corpus | {"arguments": {"config": PAIRS, "warmup_documents": 5_000}},
        "template": "plain",
        "documents_per_update": 24,
        "row_length": 128,
        "num_updates": 300,
        "optimizer": {"learning_rate": 5e-3, "warmup_steps": 30, "final_fraction": 0.05, "weight_decay": 0.01},
        "log_every": 20,
        "checkpoint_every": 1000,
        "keep_checkpoints": 1,
    }
    zero = {
        "stage": "rl",
        "init": {"kind": "stage", "path": "{base}"},
        "tasks": [{"kind": "mini", "name": "pair_sum", "config": PAIRS}],
        "template": "plain",
        "rewards": [
            {"function": "r1jax.rewards.accuracy:accuracy_reward"},
            {"function": "r1jax.rewards.format:r1_zero", "name": "format"},
        ],
        "questions_per_phase": 16,
        "group_size": 8,
        "num_updates": 20,
        "max_prompt_tokens": 32,
        "max_new_tokens": 64,
        "optimizer": {"learning_rate": 5e-4, "warmup_steps": 2, "b2": 0.99},
        "eval": {
            "every": 10,
            "problems": 64,
            "samples": 8,
            "final_problems": 64,
            "final_samples": 8,
            "problems_per_batch": 16,
            "temperature": 1.0,
            "top_p": None,
        },
        "checkpoint_every": 100,
    }
    return ConfigDict({"seed": 0, "stages": ConfigDict({"base": base, "zero": zero}, sort_keys=False)})
