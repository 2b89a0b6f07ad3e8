"""RL stage 2: all kinds of prompts, rules and reward models at temperature 0.7: R1 (R1 Sec. 3.2.2; spec B.2, B.6.4).

Command:  python -m r1jax.run --config=configs/r1/rl2.py --workdir=runs/r1/rl2
Reads:    sft/supervised; reward_helpful/reward_model, reward_safety/reward_model; the problems of recipe.py,
          data/{helpful,harmless}.jsonl (prompt), 66K and 12K in the paper.
Hardware: planned for 1,024 TPU v5p chips; the two reward models add 5.9 GiB to each (r1jax.plan); never run.
Expected: R1: AIME 2024 0.798, MATH-500 97.3, IF-Eval 83.3, AlpacaEval 87.6, ArenaHard 92.3 (spec D.3). Got: not run.

Chosen: 1,696 updates and general data from 1,296, since the paper's 1,700 are 106.25 phases of 16: so that its last 400
updates are 25 whole phases. General and reasoning prompts in proportion to their numbers (G.16: unknown), each general one
in the set of one reward model (B.6.3); its reward is the model's + format, language throughout. A longer exposure to the
preference model hacks it (R1 Fig. 6). Cap, rate, clip, KL and refresh are those of stage 1 (G.16).
"""

from ml_collections import ConfigDict
from recipe import REASONING, after, data, experiment, made_by, reasoning_tasks, reward, rl

GENERAL_FROM = 1296


def general(name: str, *, weight: float) -> dict:
    """Prompts without a reference answer."""
    task = {"kind": "files", "dataset": "prompts", "name": name, "train": data(name)}
    return task | {"weight": weight, "from_update": GENERAL_FROM}


def preference(name: str, *, task: str) -> dict:
    """The reward of a trained reward model on the prompts of its own set."""
    path = made_by(f"reward_{name}", "reward_model")
    joins = {"tasks": [task], "from_update": GENERAL_FROM}
    return {"kind": "reward_model", "name": name, "path": path, "weight": 1.0, **joins}


def get_config() -> ConfigDict:
    """One RL stage of 106 phases."""
    rewards = [
        reward("accuracy:accuracy_reward", "accuracy", tasks=REASONING),
        reward("format:r1", "format"),
        reward("language:consistency", "language"),
        preference("helpful", task="helpful"),
        preference("safety", task="harmless"),
    ]
    stage_2 = rl(
        after("sft", "supervised"),
        tasks=[*reasoning_tasks(), general("helpful", weight=66.0), general("harmless", weight=12.0)],
        rewards=rewards,
        template="r1",
        num_updates=1696,
        max_new_tokens=[[0, 32_768]],
        temperature=0.7,
    )
    return experiment(rl=stage_2)
