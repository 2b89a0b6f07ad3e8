"""Tasks that join along the way: "from_update" of a task's spec is the number of updates after which it takes part.

R1's second RL stage draws general prompts only in the last 400 of 1,700 updates (R1 Sec. 3.2.2; spec B.6.4). Which tasks
take part, and so which problem stands at an index, follows from the number of updates alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.tasks.mixture import make_tasks, mix
from r1jax.tasks.problem import Task


class TaskSchedule:
    """The tasks of a config and the update from which each is drawn from; made by ``make_schedule``.

    Attributes:
        everything: one task of all of them, whenever they take part: it knows every problem's grader.
        starts: the update from which each takes part, by name.
    """

    def __init__(self, tasks: Sequence[Task], weights: Sequence[float], starts: Sequence[int], *, seed: int):
        if starts and min(starts) > 0:
            raise ValueError(f"tasks: none takes part from update 0; the first does from_update={min(starts)}")
        mixtures: dict[int, Task] = {}
        for start in sorted(set(starts)):
            places = [place for place, first in enumerate(starts) if first <= start]
            mixtures[start] = mix([tasks[place] for place in places], [weights[place] for place in places], seed=seed)
        self._mixtures = mixtures
        self.everything = mixtures[max(mixtures)]
        self.starts = {task.name: start for task, start in zip(tasks, starts, strict=True)}

    @property
    def periods(self) -> dict[int, Task]:
        """First update of each period -> the task that is drawn from in it."""
        return dict(self._mixtures)

    def at(self, updates: int) -> Task:
        """The task that the policy learns from after so many updates: a mixture of those that take part."""
        return self._mixtures[max(start for start in self._mixtures if start <= updates)]


def make_schedule(specs: Sequence[Mapping[str, Any]], *, seed: int = 0) -> TaskSchedule:
    """The schedule of specs of ``make_task``, each with an optional "weight" (1.0) and "from_update" (0).

    Without any "from_update" it is ``make_mixture`` all along. Weights are among those that take part.

    Raises:
        ValueError: no spec, none that takes part from update 0, a "from_update" that is no whole number, or whatever
            ``make_mixture`` refuses.
    """
    if not specs:
        raise ValueError("tasks: needs at least one")
    tasks, weights = make_tasks(specs)
    starts = [_from_update(spec, what=f"task {task.name!r}") for task, spec in zip(tasks, specs, strict=True)]
    return TaskSchedule(tasks, weights, starts, seed=seed)


def _from_update(spec: Mapping[str, Any], *, what: str) -> int:
    """ "from_update" of a spec, 0 by default; ValueError, beginning with ``what``, for anything but a whole number >= 0."""
    first = spec.get("from_update", 0)
    if not isinstance(first, int) or isinstance(first, bool) or first < 0:
        raise ValueError(f"{what}: from_update={first!r} must be a whole number of at least 0")
    return first
