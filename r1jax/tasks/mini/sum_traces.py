"""Cold-start examples that show a raw model the form of an answer: worked `chain_sum` problems of reasoning-gym.

A completion is what follows the prompt "User: State the final answer to the following arithmetic problem:
12 + 34 - 9 =. Assistant:", by one of two authors:

    direct   <think> 12 + 34 - 9 </think> <answer> 37 </answer>
    steps    <think> 12 + 34 = 46, 46 - 9 = 37 </think> <answer> 37 </answer>

Both write the right answer, so nothing false is taught; a small model cannot do what `direct` does. Reinforcement
learning has to find out which of the two pays. All problems are of the train split, and of another seed than those of
the RL stage.
"""

import functools
import json
import random
from collections.abc import Mapping
from typing import Any

from r1jax.specs.tasks import ReasoningGymSpec
from r1jax.tasks.problem import stable_hash
from r1jax.tasks.reasoning_gym import ReasoningGymTask


def sum_trace(index: int, *, seed: int, config: Mapping[str, Any], steps_share: float) -> tuple[str, str]:
    """(question, completion) of the example at `index`; ValueError for a bad config of `chain_sum`.

    steps_share: probability in [0, 1] that an example is written by `steps`; ValueError outside.
    """
    if not 0.0 <= steps_share <= 1.0:
        raise ValueError(f"steps_share {steps_share} must lie between 0 and 1")
    task = _task(json.dumps(dict(config), sort_keys=True), seed)
    problem = task.problem(index, split="train")
    expression = task.entry(problem)["metadata"]["expression"]
    has_steps = random.Random(stable_hash("sum_trace", seed, index)).random() < steps_share
    work = steps(expression) if has_steps else expression
    return problem.messages[-1]["content"], f" <think> {work} </think> <answer> {problem.answer} </answer>"


def steps(expression: str) -> str:
    """The running totals of an expression like "12 + 34 - 9": "12 + 34 = 46, 46 - 9 = 37"."""
    first, *rest = expression.split(" ")
    total, lines = int(first), []
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        before, total = total, total + int(term) if sign == "+" else total - int(term)
        lines.append(f"{before} {sign} {term} = {total}")
    return ", ".join(lines) or expression


@functools.lru_cache(maxsize=4)
def _task(config_json: str, seed: int) -> ReasoningGymTask:
    seed = stable_hash("sum_traces", seed) % 2**31
    return ReasoningGymTask(ReasoningGymSpec(dataset="chain_sum", config=json.loads(config_json), seed=seed))
