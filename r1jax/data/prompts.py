"""The stream of training problems, its position saved and never replayed.

Tasks are random access and without end, so nothing is shuffled here and a position is one number.
"""

from collections.abc import Callable
from typing import Any

from r1jax.tasks.problem import Problem, Task, stable_hash


class PromptIterator:
    """Batches of training problems of a task, in order; the seed decides where in its sequence they begin.

    Problems of which ``keep`` says no are passed over, and kept for ``take_skipped``.
    """

    def __init__(
        self, task: Task, *, batch_size: int, seed: int, keep: Callable[[Problem], bool] = lambda problem: True
    ):
        self._identity = {"task": task.name, "batch_size": batch_size, "seed": seed}
        self._task, self._keep, self._skipped = task, keep, []
        self._start, self._next = stable_hash("prompts", seed) % 2**32, 0

    def draw_from(self, task: Task) -> None:
        """From now on the problems are another task's, at the indices where the stream stands; no position says which."""
        self._task = task

    def take_skipped(self) -> list[Problem]:
        """The problems that were passed over since this was asked last."""
        skipped, self._skipped = self._skipped, []
        return skipped

    def __iter__(self) -> "PromptIterator":
        return self

    def __next__(self) -> list[Problem]:
        return self.take(self._identity["batch_size"])

    def take(self, count: int) -> list[Problem]:
        """The next so many problems."""
        return [problem for _, problem in self.take_indexed(count)]

    def take_indexed(self, count: int) -> list[tuple[int, Problem]]:
        """The next so many problems, each with its index in the sequence of the task."""
        batch: list[tuple[int, Problem]] = []
        while len(batch) < count:
            index = self._start + self._next
            problem = self._task.problem(index, split="train")
            self._next += 1
            if self._keep(problem):
                batch.append((index, problem))
            else:
                self._skipped.append(problem)
        return batch

    def get_state(self) -> dict[str, Any]:
        """The position, JSON-able: the next problem is the first one that a restored iterator gives."""
        return {**self._identity, "next": self._next}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a saved position, at once. Raises ValueError for one of another task, batch size or seed."""
        for key, value in self._identity.items():
            if state.get(key) != value:
                raise ValueError(f"prompts: the saved position has {key} {state.get(key)!r} and this run has {value!r}")
        self._next = state["next"] if "next" in state else state["grain"]["next_index"]
