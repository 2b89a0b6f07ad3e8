"""R1-Zero on a real model: SmolLM2-135M-Instruct (Q4_1 GGUF) learns reasoning-gym's chain sums by GRPO (R1v2 Sec. 2).

Command:  make zero_smollm2   (python -m r1jax.run --config=configs/zero_smollm2.py --workdir=runs/zero_smollm2)
Hardware: two CPU cores; 8.1 GB resident was seen in a trial. Time: 31 min 15 s beside other work (33 s an update where it was alone)
Expected: held-out accuracy at least doubles over the stage `format`, whose score is the baseline. Got (seed 0):
          0.139 [0.112, 0.167] -> 0.431 [0.375, 0.486], responses 25.1 -> 32.9 tokens, 192 held-out problems x 4 samples

The raw model never writes an <answer> (0 of 128 samples), so reward would be 0 for ever. The stage `format` shows it
the form on a few hundred examples, all of them right; in most of them the answer comes without work, in a fifth the
running totals are written out (r1jax.tasks.mini.sum_traces). The stage `zero` is then pure RL with the rule rewards.
The prompt is the tail of the R1-Zero template ("plain"): the whole one would be three quarters of every row.
"""

from ml_collections import ConfigDict

SUMS = {"min_terms": 3, "max_terms": 3, "min_digits": 1, "max_digits": 1}


def get_config() -> ConfigDict:
    """A short supervised stage for the form, then RL."""
    form = {
        "stage": "supervised",
        "workdir": "{workdir}/../smollm2-format-{hash}",
        "init": {"kind": "gguf", "path": "smollm2"},
        "data": {
            "function": "r1jax.tasks.mini.sum_traces:sum_trace",
            "arguments": {"config": SUMS, "steps_share": 0.2},
        },
        "template": "plain",
        "documents_per_update": 32,
        "row_length": 256,
        "rows_per_microbatch": 4,
        "num_updates": 12,
        "optimizer": {"learning_rate": 1e-4, "schedule": "constant", "warmup_steps": 2},
        "log_every": 1,
        "checkpoint_every": 1000,
        "keep_checkpoints": 1,
    }
    zero = {
        "stage": "rl",
        "init": {"kind": "stage", "path": "{format}"},
        "tasks": [{"kind": "reasoning_gym", "dataset": "chain_sum", "config": SUMS}],
        "template": "plain",
        "rewards": [
            {"function": "r1jax.rewards.accuracy:accuracy_reward"},
            {"function": "r1jax.rewards.format:r1_zero", "name": "format"},
        ],
        "questions_per_phase": 8,
        "group_size": 8,
        "num_updates": 20,
        "max_prompt_tokens": 40,
        "max_new_tokens": 64,
        "kl_coef": 0.0,  # no reference model: its pass would be a fifth of the time
        "row_length": 256,
        "rows_per_microbatch": 4,
        "optimizer": {"learning_rate": 1e-5, "warmup_steps": 2},
        "eval": {
            "every": 5,
            "samples": 2,
            "final_problems": 192,
            "final_samples": 4,
            "problems_per_batch": 32,
            "temperature": 1.0,
            "top_p": None,
        },
        "checkpoint_every": 10,
        "keep_checkpoints": 1,
    }
    return ConfigDict({"seed": 0, "stages": ConfigDict({"format": form, "zero": zero}, sort_keys=False)})
