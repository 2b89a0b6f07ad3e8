"""The three things that the ten-line experiment names, and the config itself: a tiny model, problems, a reward."""

import json
from pathlib import Path

from r1jax.hf import Pretrained, save_pretrained
from r1jax.policies.policy import load_init
from r1jax.sharding import make_mesh
from r1jax.specs.policy import RandomInit
from r1jax.specs.reader import read
from tests.tiny import POLICY

TEN_LINES = """\
from ml_collections import ConfigDict

def get_config():
    rl = {"stage": "rl", "init": {"kind": "hf", "path": "my_model"}, "tasks": [{"kind": "files", "path": "my_problems.jsonl"}],
          "rewards": [{"function": "my_rewards:digits"}], "group_size": 8, "num_updates": 50}
    return ConfigDict({"stages": {"rl": rl}})
"""
"""Verbatim as README has it."""
REWARDS = '''\
def digits(completions, answer, animals, **columns):
    """The share of digits, and a little where there are animals."""
    return [
        sum(character.isdigit() for character in text) / max(len(text), 1) + (0.1 if len(beasts) == 2 else 0.0)
        for text, beasts in zip(completions, animals, strict=True)
    ]
'''


def write_mine(folder: Path, *, num_problems: int = 100) -> None:
    """Writes mine.py, my_model, my_problems.jsonl and my_rewards.py into a folder."""
    policy, params, buffers = load_init(read(RandomInit, POLICY), mesh=make_mesh(), seed=0)
    made = Pretrained(policy.model, params, buffers, tokenizer=policy.tokenizer)
    save_pretrained(made, folder / "my_model")
    problems = [
        {"prompt": f"What is {index} + 1?", "answer": str(index + 1), "animals": [2, 3]}
        for index in range(num_problems)
    ]
    (folder / "my_problems.jsonl").write_text("".join(f"{json.dumps(problem)}\n" for problem in problems))
    (folder / "my_rewards.py").write_text(REWARDS)
    (folder / "mine.py").write_text(TEN_LINES)
