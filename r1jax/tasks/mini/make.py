"""The tasks of the toy world by name, and how one is made of its spec."""

import inspect

from r1jax.specs.reader import near
from r1jax.specs.tasks import MiniSpec
from r1jax.tasks.mini.general import Helpful, Safety
from r1jax.tasks.mini.pair_sum import PairSum
from r1jax.tasks.problem import Task

MINI_TASKS = {task.name: task for task in (PairSum, Helpful, Safety)}


def make_mini_task(spec: MiniSpec) -> Task:
    """The task of a spec. Raises ValueError that begins with "config" for settings that the task does not have or refuses."""
    task = MINI_TASKS[spec.name]
    known = inspect.signature(task).parameters
    if unknown := sorted(set(spec.config) - set(known)):
        raise ValueError(f"config: task {spec.name!r} has no setting {unknown[0]!r}{near(unknown[0], known)}")
    try:
        return task(**spec.config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"config: {error}") from error
