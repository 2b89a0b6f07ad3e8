"""Tasks that join along the way: "from_update" of a task's spec is the number of updates after which it takes part.

R1's second RL stage draws general prompts only in the last 400 of 1,700 updates (R1 Sec. 3.2.2; spec B.6.4). Which tasks
take part, and so which problem stands at an index, follows from the number of updates alone.
"""

from collections.abc import Sequence

from r1jax.specs import tasks as specs_of
from r1jax.tasks.mixture import make_tasks, mix
from r1jax.tasks.problem import Task


class TaskSchedule:
    """The tasks of a config and the update from which each is drawn from; made by ``make_schedule``.

    Attributes:
        periods: first update of each period -> the task that is drawn from in it.
        everything: one task of all of them, whenever they take part: it knows every problem's grader.
        starts: the update from which each takes part, by name.
    """

    def __init__(self, tasks: Sequence[Task], weights: Sequence[float], starts: Sequence[int], *, seed: int):
        if not tasks:
            raise ValueError("tasks: needs at least one")
        if min(starts) > 0:
            raise ValueError(f"tasks: none takes part from update 0; the first does from_update={min(starts)}")
        self.periods: dict[int, Task] = {}
        for start in sorted(set(starts)):
            present = [number for number, first in enumerate(starts) if first <= start]
            self.periods[start] = mix([tasks[i] for i in present], [weights[i] for i in present], seed=seed)
        self.everything = self.periods[max(self.periods)]
        self.starts = {task.name: start for task, start in zip(tasks, starts, strict=True)}

    def at(self, updates: int) -> Task:
        """The task that the policy learns from after so many updates: a mixture of those that take part."""
        return self.periods[max(start for start in self.periods if start <= updates)]


def make_schedule(specs: Sequence[specs_of.Task], *, seed: int = 0) -> TaskSchedule:
    """The schedule of specs; without any "from_update" it is ``make_mixture`` all along. Weights are among those that take part.

    Raises:
        ValueError: no spec, none that takes part from update 0, or whatever ``make_mixture`` refuses.
    """
    tasks, weights = make_tasks(specs)
    return TaskSchedule(tasks, weights, [spec.from_update for spec in specs], seed=seed)
