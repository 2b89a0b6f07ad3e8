"""Tasks from their specs, weighted mixtures of them, and tasks that join along the way."""

import bisect
import itertools
from collections.abc import Sequence

from r1jax.specs.fields import types_of
from r1jax.specs.tasks import AnyTask, FilesTaskSpec, MiniSpec
from r1jax.tasks.file_task import make_file_task
from r1jax.tasks.mini.make import make_mini_task
from r1jax.tasks.problem import GradingError, Problem, Task, canonical_answer, check_index, stable_hash
from r1jax.tasks.reasoning_gym import ReasoningGymTask


def make_task(spec: AnyTask) -> Task:
    """The task that a spec describes; its weight and its first update are for ``make_mixture`` and ``TaskSchedule``.

    Raises ValueError for what the task itself refuses.
    """
    if isinstance(spec, FilesTaskSpec):
        return make_file_task(spec)
    return make_mini_task(spec) if isinstance(spec, MiniSpec) else ReasoningGymTask(spec)


def make_tasks(specs: Sequence[AnyTask]) -> list[Task]:
    """The task of each. Raises ValueError as ``make_task``, beginning with "tasks[i]" and the key that is at fault."""
    tasks = []
    for index, spec in enumerate(specs):
        try:
            tasks.append(make_task(spec))
        except ValueError as error:
            is_key = str(error).partition(":")[0] in types_of(type(spec))
            raise ValueError(f"tasks[{index}]{'.' if is_key else ': '}{error}") from error
    return tasks


def make_mixture(specs: Sequence[AnyTask], *, seed: int = 0) -> Task:
    """One task from several: problem ``index`` comes from a task drawn by weight, by a hash of (seed, index).

    A single spec gives its task as it is. Weights need not sum to one.

    Raises ValueError for no spec, two tasks of one name, or whatever ``make_task`` refuses.
    """
    return _mix([(task, spec.weight) for task, spec in zip(make_tasks(specs), specs, strict=True)], seed=seed)


def _mix(weighted: Sequence[tuple[Task, float]], *, seed: int) -> Task:
    tasks = [task for task, _ in weighted]
    return tasks[0] if len(tasks) == 1 else Mixture(tasks, [weight for _, weight in weighted], seed=seed)


class Mixture:
    """Several tasks as one ``Task``; each problem keeps its task's name in ``columns["task"]``, and its grader."""

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
        """The task that a problem came from. Raises GradingError for a problem of none of the mixture's tasks."""
        name = problem.columns.get("task")
        if name not in self.tasks:
            raise GradingError(f"mixture {self.name!r} was given a problem of task {name!r}")
        return self.tasks[name]

    def grade(self, answer: str | None, problem: Problem) -> float:
        """The grade by the problem's task."""
        return self.task_of(problem).grade(answer, problem)

    def canonical(self, answer: str) -> str:
        """The default form; that of a task is ``task_of(problem).canonical(answer)``."""
        return canonical_answer(answer)


class TaskSchedule:
    """Tasks of which each is drawn from once the policy has had "from_update" updates.

    R1's second RL stage draws general prompts only in the last 400 of 1,700 updates (R1 Sec. 3.2.2; spec B.6.4). Which
    tasks take part, and so which problem stands at an index, follows from the number of updates alone. Weights are
    among them.

    Attributes:
        periods: first update of each period -> the task that is drawn from in it.
        everything: one task of all of them, whenever they take part: it knows every problem's grader.
        starts: the update from which each takes part, by name.
    """

    def __init__(self, specs: Sequence[AnyTask], *, seed: int = 0):
        """Raises ValueError: no spec, none that takes part from update 0, or whatever ``make_mixture`` refuses."""
        starts = [spec.from_update for spec in specs]
        if specs and min(starts) > 0:
            raise ValueError(f"tasks: none takes part from update 0; the first does from_update={min(starts)}")
        tasks = make_tasks(specs)
        self.starts = {task.name: start for task, start in zip(tasks, starts, strict=True)}
        self.periods: dict[int, Task] = {}
        for start in sorted({0, *starts}):
            present = [
                (task, spec.weight) for task, spec in zip(tasks, specs, strict=True) if spec.from_update <= start
            ]
            self.periods[start] = _mix(present, seed=seed)
        self.everything = self.periods[max(self.periods)]

    def at(self, updates: int) -> Task:
        """The task that the policy learns from after so many updates: a mixture of those that take part."""
        return self.periods[max(start for start in self.periods if start <= updates)]
