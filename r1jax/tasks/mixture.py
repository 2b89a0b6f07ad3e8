"""Tasks from their specs, and weighted mixtures of tasks."""

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.tasks.problem import GradingError, Problem, Task, canonical_answer, check_keys, check_place, stable_hash

KINDS = ("reasoning_gym", "mini", "files")
_OF_THE_MIXTURE = ("weight", "from_update")


def make_task(spec: Mapping[str, Any]) -> Task:
    """The task that a spec describes.

    ``{"kind": "reasoning_gym", "dataset": "chain_sum", "config": {...}}`` with any keyword of ``ReasoningGymTask``, or
    ``{"kind": "mini", "name": "pair_sum", "config": {...}}`` (see ``mini.make_mini_task``), or ``{"kind": "files",
    "dataset": "gsm8k", "train": ..., "heldout": ...}`` (see ``file_task.FileTask``). A "weight" is for ``make_mixture``,
    a "from_update" for ``schedule.make_schedule``.

    Raises:
        ValueError: unknown kind or key, or whatever the task itself refuses.
    """
    spec = {key: value for key, value in spec.items() if key not in _OF_THE_MIXTURE}
    match spec.get("kind"):
        case "reasoning_gym":
            from r1jax.tasks.reasoning_gym import ReasoningGymTask

            arguments = {key: value for key, value in spec.items() if key != "kind"}
            allowed = {"dataset", "config", "name", "answer_instruction", "heldout_fraction", "seed"}
            check_keys(arguments, allowed=allowed, what="task of kind 'reasoning_gym'")
            if "dataset" not in arguments:
                raise ValueError(f"task of kind 'reasoning_gym': key 'dataset' is missing in {dict(spec)}")
            return ReasoningGymTask(**arguments)
        case "mini":
            from r1jax.tasks.mini.pair_sum import make_mini_task

            return make_mini_task(dict(spec))
        case "files":
            from r1jax.tasks.file_task import make_file_task

            return make_file_task(dict(spec))
        case kind:
            raise ValueError(f"task kind {kind!r}: must be one of {', '.join(KINDS)}")


def make_mixture(specs: Sequence[Mapping[str, Any]], *, seed: int = 0) -> Task:
    """One task from several: problem ``index`` comes from a task drawn by weight, by a hash of (seed, index).

    A single spec gives its task as it is.

    Args:
        specs: specs of ``make_task``, each with an optional "weight" (1.0); they need not sum to one.
        seed: of the draw.

    Raises:
        ValueError: no spec, a weight that is not positive and finite, or two tasks of one name.
    """
    return mix(*make_tasks(specs), seed=seed)


def make_tasks(specs: Sequence[Mapping[str, Any]]) -> tuple[list[Task], list[float]]:
    """The tasks of specs, and the weight of each: 1.0 where a spec has none; ValueError as ``make_task``."""
    return [make_task(spec) for spec in specs], [float(spec.get("weight", 1.0)) for spec in specs]


def mix(tasks: Sequence[Task], weights: Sequence[float], *, seed: int) -> Task:
    """A single task as it is, several as a ``Mixture``, which says what it refuses."""
    return tasks[0] if len(tasks) == 1 else Mixture(tasks, weights, seed=seed)


class Mixture:
    """Several tasks as one ``Task``; each problem keeps its own task's name in ``columns["task"]``, and its grader."""

    def __init__(self, tasks: Sequence[Task], weights: Sequence[float], *, seed: int = 0):
        if not tasks or len(tasks) != len(weights):
            raise ValueError(
                f"mixture: needs tasks and as many weights; got {len(tasks)} tasks and {len(weights)} weights"
            )
        names = [task.name for task in tasks]
        for name, weight in zip(names, weights, strict=True):
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(f"mixture: task {name!r} has weight {weight}; it must be positive and finite")
            if names.count(name) > 1:
                raise ValueError(f"mixture: two tasks are named {name!r}; give one of them another 'name'")
        self.name = "+".join(names)
        self.tasks = dict(zip(names, tasks, strict=True))
        self.seed = seed
        self._bounds = list(itertools.accumulate(weight / sum(weights) for weight in weights))

    def problem(self, index: int, *, split: str) -> Problem:
        """The problem at ``index`` of the drawn task; which task is drawn does not depend on the split."""
        check_place(index, split)
        draw = stable_hash("mixture", self.seed, index) / 2**64
        place = min(bisect.bisect_right(self._bounds, draw), len(self._bounds) - 1)
        return list(self.tasks.values())[place].problem(index, split=split)

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
