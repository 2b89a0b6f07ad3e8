"""RL stage 1: reasoning prompts, accuracy + format + language consistency: Dev2 (R1 Sec. 3.2.1; spec B.2, B.6).

Command:  python -m r1jax.run --config=configs/r1/rl1.py --workdir=runs/r1/rl1
Reads:    cold_start/supervised; the problems of recipe.py.
Hardware: planned for 1,024 TPU v5p chips; never run (python -m r1jax.plan counts the memory).
Expected: Dev2: AIME 2024 0.740, MATH-500 95.9, IF-Eval 72.0, ArenaHard 73.2 (spec D.3). Got: not run.

Chosen: 2,400 updates. The paper gives no number (G.17); all of R1 took 41K GPU-hours, at R1-Zero's 9.7 an update room for
about 2,500 besides stage 2 and SFT. The format reward is R1 v2's reading (G.13). The target language is the question's.
"""

from ml_collections import ConfigDict
from recipe import after, experiment, reasoning_tasks, reward, rl


def get_config() -> ConfigDict:
    """One RL stage of 150 phases."""
    rewards = [
        reward("accuracy:accuracy_reward", "accuracy"),
        reward("format:r1", "format"),
        reward("language:consistency", "language"),
    ]
    stage_1 = rl(
        after("cold_start", "supervised"),
        tasks=reasoning_tasks(),
        rewards=rewards,
        template="r1",
        num_updates=2400,
        max_new_tokens=[[0, 32_768]],
    )
    return experiment(rl=stage_1)
