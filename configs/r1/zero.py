"""R1-Zero: pure RL with rule rewards on DeepSeek-V3-Base (R1 Sec. 2; spec B.2, B.3).

Command:  python -m r1jax.run --config=configs/r1/zero.py --workdir=runs/r1/zero
Reads:    models/deepseek_v3_base; data/{math,code,stem,logic}.jsonl and what is held out of each (recipe.py).
Hardware: compiled for 1,024 TPU v5p chips (experiments/plan); never run.
Expected: AIME 2024 pass@1 0.156 -> 0.779, cons@16 0.867; responses of about 500 -> 14,200 tokens (spec E). Got: not run.

Chosen: the cap doubles at update 8,192, the phase boundary before the paper's 8.2k (phase 512.5); the first 8,192 updates
use rows of the later length as well, two or more responses to a row. "1.6 epochs" fits no count of prompts and is ignored
(G.5). The template's tags are those of R1 v2, tokenised as ordinary text (G.10, B.5). Language is only logged.
"""

from ml_collections import ConfigDict
from recipe import experiment, pretrained, reasoning_tasks, reward, rl


def get_config() -> ConfigDict:
    """One RL stage of 650 phases."""
    rewards = [
        reward("accuracy:accuracy_reward", "accuracy"),
        reward("format:r1_zero", "format"),
        reward("language:consistency", "language", weight=0.0),
    ]
    zero = rl(
        pretrained("deepseek_v3_base"),
        tasks=reasoning_tasks(),
        rewards=rewards,
        template="r1_zero",
        num_updates=10_400,
        max_new_tokens=[[0, 32_768], [8192, 65_536]],
        mesh={"fsdp": 8, "expert": 8, "sequence": 16},
        rows_per_microbatch=64,
    )
    return experiment(rl=zero)
