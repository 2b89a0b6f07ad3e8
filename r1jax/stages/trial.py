"""What the stages that sample have to try before anything is computed: prompts against their cap, rewards, templates."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from r1jax.policies.preview import Previews
from r1jax.rewards.rubric import Rubric, Scores
from r1jax.rollout.background import score_in_background
from r1jax.rollout.collect import reward_columns
from r1jax.rollout.records import Completion
from r1jax.tasks.mixture import Mixture
from r1jax.tasks.problem import Problem, Task
from r1jax.text.chat import encode_prompt

_NUM_LOOKED_AT = 64
"""Training problems of each task, of which one must have a prompt that fits."""


def tasks_of(task: Task) -> list[Task]:
    """The tasks of a mixture, or the one."""
    return list(task.tasks.values()) if isinstance(task, Mixture) else [task]


def try_rewards(rubric: Rubric, problem: Problem, *, task: Task, answers: Sequence[str]) -> Scores:
    """The rewards of some answers to a problem, in the thread that will call them later.

    So a reward that cannot be called there, returns too few scores, or needs a column that the problem lacks raises ValueError now.
    """
    dummy = Completion(np.zeros(1, np.int32), np.zeros(1, np.float32), "stop")
    columns = reward_columns(problem, [dummy] * len(answers), task=task)
    rubric.check_columns(columns, task_name=task.name)
    return score_in_background(rubric, [problem.messages[-1]["content"]] * len(answers), answers, columns)


def try_columns(rubric: Rubric, problem: Problem, *, task: Task) -> None:
    """Raises ValueError for a reward that needs a column that the problem lacks."""
    rubric.check_columns(reward_columns(problem, [], task=task), task_name=task.name)


def check_prompts(
    spec: Any, previews: Previews, *, trained: Sequence[Task] = (), heldout: Sequence[Problem] = ()
) -> None:
    """Raises ValueError where no training prompt of a task is within ``max_prompt_tokens``, or a held-out one is not.

    spec: of a stage with ``init``, ``template``, ``max_prompt_tokens``. Where its tokenizer cannot be known yet, nothing is tried.
    """
    preview = previews.policy(spec.init, seed=spec.seed)
    if preview is None:
        return
    preview.tokenizer.check_fits(preview.config.vocab_size)

    def length(problem: Problem) -> int:
        return len(encode_prompt(problem.messages, preview.tokenizer, template=spec.template))

    for task in trained:
        lengths = []
        for index in range(_NUM_LOOKED_AT):
            lengths.append(length(task.problem(index, split="train")))
            if lengths[-1] <= spec.max_prompt_tokens:
                break
        else:
            raise ValueError(
                f"max_prompt_tokens={spec.max_prompt_tokens}: the first {_NUM_LOOKED_AT} training prompts of task "
                f"{task.name!r} have {min(lengths)} tokens and more"
            )
    for problem in heldout:
        if (count := length(problem)) > spec.max_prompt_tokens:
            raise ValueError(
                f"max_prompt_tokens={spec.max_prompt_tokens}: a held-out prompt of task {problem.columns['task']!r} has "
                f"{count} tokens: {problem.messages[-1]['content'][:80]!r}"
            )
