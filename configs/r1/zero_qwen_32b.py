"""Qwen2.5-32B-Zero: the 32B student's base by RL alone, to compare with `distill_qwen_32b` (spec B.2, D.4).

Command:  python -m r1jax.run --config=configs/r1/zero_qwen_32b.py --workdir=runs/r1/zero_qwen_32b
Reads:    models/qwen2_5_32b; the problems of recipe.py.
Hardware: planned for 512 TPU v5p chips; never run (r1jax.plan counts the memory; a cached token of this model takes 262 KB).
Expected: AIME 2024 pass@1 47.0, cons@64 60.0; MATH-500 91.6: far below the distilled 72.6 (spec D.4). Got: not run.

Chosen: the rate 1e-6, of the two that the paper prints (G.22); 10,400 updates for "more than 10K"; clip 10 as everywhere.
"""

from ml_collections import ConfigDict
from recipe import ENGINE, experiment, pretrained, reasoning_tasks, reward, rl


def get_config() -> ConfigDict:
    """One RL stage of 650 phases."""
    zero = rl(
        pretrained("qwen2_5_32b"),
        tasks=reasoning_tasks()[:3],  # math, code, STEM
        rewards=[reward("accuracy:accuracy_reward", "accuracy"), reward("format:r1_zero", "format")],
        template="r1_zero",
        num_updates=10_400,
        max_new_tokens=[[0, 32_768]],
        learning_rate=1e-6,
        mesh={"fsdp": 128, "tensor": 4},
        rollout_mesh={"data": 64, "tensor": 8},
        engine=ENGINE | {"cache_gb": 120.0},
    )
    return experiment(rl=zero)
