"""What the stages that sample share: their collector, and what they have to try before anything is computed."""

from collections.abc import Sequence
from typing import Any

from r1jax.policies.policy import Policy
from r1jax.policies.preview import Previews
from r1jax.rewards.rubric import Rubric
from r1jax.rollout.collect import Collector, reward_columns, score_in_background
from r1jax.rollout.engine import make_engine
from r1jax.tasks.mixture import Mixture
from r1jax.tasks.problem import Problem, Task
from r1jax.text.chat import check_template, encode_prompt

_NUM_CHECKED = 16
"""Training problems of each task that must have what its rewards need."""
_NUM_LOOKED_AT = 64
"""Training problems of each task, of which one must have a prompt that fits."""


def make_collector(spec: Any, policy: Policy, *, task: Task, rubric: Rubric) -> Collector:
    """The sampler of a stage with ``engine``, ``template`` and ``max_prompt_tokens``, and what scores its answers."""
    return Collector(
        engine=make_engine(policy.model, spec.engine, pad_id=policy.tokenizer.pad_id),
        tokenizer=policy.tokenizer,
        task=task,
        rubric=rubric,
        template=spec.template,
        max_prompt_tokens=spec.max_prompt_tokens,
        num_updates=getattr(spec, "num_updates", 0),
    )


def tasks_of(task: Task) -> list[Task]:
    """The tasks of a mixture, or the one."""
    return list(task.tasks.values()) if isinstance(task, Mixture) else [task]


def check_rewards(rubric: Rubric, task: Task, *, template: str) -> None:
    """Lets the rewards score a training problem of a task, and asks for the columns of more.

    Raises ValueError, naming the problem's row, for a column that a reward needs and it has not, a reward that fails on every
    answer, or a template that its messages do not fit.
    """
    for index in range(_NUM_CHECKED):
        problem = task.problem(index, split="train")
        try:
            rubric.check_columns(reward_columns(problem, [], [], task=task), task_name=task.name)
            if index == 0:
                check_template(template, problem.messages)
                scores = score_in_background(rubric, problem, ["", "1"], task=task, template=template)
                if failing := [name for name, failed in scores.failed.items() if failed.all()]:
                    raise ValueError(f"reward {failing[0]!r} fails on every answer: {scores.messages[0][failing[0]]}")
        except ValueError as error:
            where = problem.columns.get("row", f"task {task.name!r}, training problem {index}")
            raise ValueError(f"{where}: {error}") from error


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
