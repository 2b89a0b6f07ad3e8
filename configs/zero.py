"""R1-Zero in miniature: a base model that is pretrained here, then pure RL with rule rewards (R1v2 Sec. 2).

Command:  make zero   (python -m r1jax.run --config=configs/zero.py --workdir=runs/zero)
Hardware: two CPU cores. Time: 8 to 10 minutes with the cores free, the base half of it.
Expected: held-out pass@1 from at most 0.30 to at least 0.75, cons@16 at least pass@1, longer responses with more reflection words
          (the paper, AIME 2024: 0.156 -> 0.779, cons@16 0.867). Got
          for seeds 0, 1, 2: 0.225 -> 0.909, 0.204 -> 0.940, 0.211 -> 0.929; cons@16 0.991, 0.998, 0.996; length 18 -> 44
          (1 and 2 with the sampler before 2026-12-01)

With --config.stages.base.init.model.num_mtp_layers=1 --config.stages.base.mtp_weight=0.3 the base gets an MTP layer, which can
draft; its updates then take 1.25 times as long, so it has none by default. --config.stages.zero.mtp_weight=0.1 trains the
layer on the rollouts too.

The prompt is the tail of the R1-Zero template ("plain"): the whole one would be most of every row of so small a model.
"""

from ml_collections import ConfigDict

PAIRS = {"count": 4, "low": 1, "high": 20, "heldout_fraction": 0.1}
"""The task, for the corpus and for RL: were the held-out share not the same in both, held-out problems would leak."""


def get_config() -> ConfigDict:
    """The base and the RL stage."""
    corpus = {"function": "r1jax.tasks.mini.corpus:corpus_text", "arguments": {"config": PAIRS}}
    base = {
        "stage": "supervised",
        "workdir": "{workdir}/../base-{hash}",
        "init": {
            "kind": "random",
            "preset": "mini_v3",
            "model": {"init_std": 0.05},
            "tokenizer": {"source": corpus},
        },
        "data": corpus | {"arguments": {"config": PAIRS, "warmup_documents": 18_000}},
        "template": "plain",
        "documents_per_update": 28,
        "row_length": 160,
        "num_updates": 1100,
        "optimizer": {"learning_rate": 3e-3, "warmup_steps": 50, "final_fraction": 0.05, "weight_decay": 0.01},
        "bias_rate": 0.001,
        "log_every": 20,
        "checkpoint_every": 500,
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
        "questions_per_phase": 16,  # R1v2: 512 questions x 16 outputs a phase, 16 updates
        "updates_per_phase": 2,
        "num_updates": 80,
        "max_prompt_tokens": 48,
        "max_new_tokens": 112,
        "optimizer": {"learning_rate": 1e-4, "warmup_steps": 5, "b2": 0.99},
        "bias_rate": 0.001,
        "eval": {
            "every": 10,
            "problems": 128,
            "final_problems": 512,
            "problems_per_batch": 32,
            "temperature": 1.0,
            "top_p": None,
        },
        "checkpoint_every": 20,
    }
    return ConfigDict({"seed": 0, "stages": ConfigDict({"base": base, "zero": zero}, sort_keys=False)})
