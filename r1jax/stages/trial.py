"""What the stages that sample have to try before anything is computed: prompts against their cap, rewards, templates."""

from collections.abc import Sequence
from typing import Any

from r1jax.policies.preview import Previews
from r1jax.tasks.mixture import Mixture
from r1jax.tasks.problem import Problem, Task
from r1jax.text.chat import encode_prompt

_NUM_LOOKED_AT = 64
"""Training problems of each task, of which one must have a prompt that fits."""


def tasks_of(task: Task) -> list[Task]:
    """The tasks of a mixture, or the one."""
    return list(task.tasks.values()) if isinstance(task, Mixture) else [task]


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
