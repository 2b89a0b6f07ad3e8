"""Tasks from their specs, and weighted mixtures of tasks."""

import bisect
import itertools
from collections.abc import Sequence

from r1jax.specs import tasks as specs_of
from r1jax.tasks.problem import GradingError, Problem, Task, canonical_answer, check_index, stable_hash


def make_task(spec: specs_of.Task) -> Task:
    """The task that a spec describes; its weight and its first update are for ``make_mixture`` and ``make_schedule``.

    Raises ValueError for what the task itself refuses.
    """
    if isinstance(spec, specs_of.ReasoningGymSpec):
        from r1jax.tasks.reasoning_gym import ReasoningGymTask

        return ReasoningGymTask(spec)
    if isinstance(spec, specs_of.MiniSpec):
        from r1jax.tasks.mini.make import make_mini_task

        return make_mini_task(spec)
    from r1jax.tasks.file_task import make_file_task

    return make_file_task(spec)


def make_tasks(specs: Sequence[specs_of.Task]) -> tuple[list[Task], list[float]]:
    """The tasks of specs, and the weight of each; ValueError as ``make_task``."""
    return [make_task(spec) for spec in specs], [spec.weight for spec in specs]


def make_mixture(specs: Sequence[specs_of.Task], *, seed: int = 0) -> Task:
    """One task from several: problem ``index`` comes from a task drawn by weight, by a hash of (seed, index).

    A single spec gives its task as it is. Weights need not sum to one.

    Raises:
        ValueError: no spec, two tasks of one name, or whatever ``make_task`` refuses.
    """
    return mix(*make_tasks(specs), seed=seed)


def mix(tasks: Sequence[Task], weights: Sequence[float], *, seed: int) -> Task:
    """A single task as it is, several as a ``Mixture``, which says what it refuses."""
    return tasks[0] if len(tasks) == 1 else Mixture(tasks, weights, seed=seed)


class Mixture:
    """Several tasks as one ``Task``; each problem keeps its own task's name in ``columns["task"]``, and its grader."""

    def __init__(self, tasks: Sequence[Task], weights: Sequence[float], *, seed: int = 0):
        names = [task.name for task in tasks]
        if not tasks:
            raise ValueError("tasks: needs at least one")
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"tasks: two are named {repeated[0]!r}; give one of them another 'name'")
        self.name = "+".join(names)
        self.tasks = dict(zip(names, tasks, strict=True))
        self.seed = seed
        self._bounds = list(itertools.accumulate(weight / sum(weights) for weight in weights))

    def problem(self, index: int, *, split: str) -> Problem:
        """The problem at ``index`` of the drawn task; which task is drawn does not depend on the split."""
        check_index(index, split)
        draw = stable_hash("mixture", self.seed, index) / 2**64
        drawn = min(bisect.bisect_right(self._bounds, draw), len(self._bounds) - 1)
        return list(self.tasks.values())[drawn].problem(index, split=split)

    def task_of(self, problem: Problem) -> Task:
        """The task that a problem came from.

        Raises:
            GradingError: the problem is of none of the mixture's tasks.
        """
        name = problem.columns.get("task")
        if name not in self.tasks:
            raise GradingError(f"mixture {self.name!r} was given a problem of task {name!r}")
        return self.tasks[name]

    def grade(self, answer: str | None, problem: Problem) -> float:
        """The grade of the problem's own task."""
        return self.task_of(problem).grade(answer, problem)

    def canonical(self, answer: str) -> str:
        """The default form; for a task's own form use ``task_of(problem).canonical(answer)``."""
        return canonical_answer(answer)
