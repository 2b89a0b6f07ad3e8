"""The stream of training problems, its position saved and never replayed.

Tasks are random access and without end, so nothing is shuffled here and a position is one number.
"""

import itertools
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
        self._keep, self._skipped = keep, []
        # No read-ahead threads: a generator may touch global random state, and making problems costs far less than
        # sampling.
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        self._task, self._start = task, stable_hash("prompts", seed) % 2**32
        dataset = grain.MapDataset.range(_LENGTH).map(self._problem).to_iter_dataset(options)
        self._iterator = iter(dataset.filter(self._is_kept))

    def _problem(self, index: int) -> Problem:
        return self._task.problem(self._start + index, split="train")

    def _is_kept(self, problem: Problem) -> bool:
        is_kept = self._keep(problem)
        if not is_kept:
            self._skipped.append(problem)
        return is_kept

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
        return list(itertools.islice(self._iterator, count))

    def get_state(self) -> dict[str, Any]:
        """The position, JSON-able: the next problem is the first one that a restored iterator gives."""
        return {**self._identity, "grain": self._iterator.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a saved position, at once. Raises ValueError for one of another task, batch size or seed."""
        for key, value in self._identity.items():
            if state.get(key) != value:
                raise ValueError(f"prompts: the saved position has {key} {state.get(key)!r} and this run has {value!r}")
        self._next = state["next"] if "next" in state else state["grain"]["next_index"]
